"""Import and export of folders: there and back; bad input is one message and leaves nothing."""
# SPDX-License-Identifier: Apache-2.0

import json
from pathlib import Path

import numpy as np
import pytest
import reference
import test_files
from safetensors.numpy import load_file, save_file

from t5x_lite import main
from t5x_lite.errors import ConfigError, RunError
from t5x_lite.interop import architectures, exchange, hugging_face
from t5x_lite.model.heads import ClassifierHead, SentenceHead

WEIGHTS, CONFIG = 'model.safetensors', 'config.json'
QUERY = 'bert.encoder.layer.1.attention.self.query.weight'


@pytest.fixture(scope='module')
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp('bert')
    reference.save(test_files.MODELS['bert'](), folder)
    return folder


@pytest.fixture
def source(bert, tmp_path):
    """A copy to damage."""
    folder = tmp_path / 'source'
    folder.mkdir()
    for file in bert.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize('kind', test_files.MODELS)
def test_a_folder_comes_back_from_a_run_bit_for_bit(kind, tmp_path):
    reference.save(test_files.MODELS[kind](), tmp_path / 'source')
    (tmp_path / 'source' / 'tokenizer.json').write_text('{}')
    told = exchange.import_folder(tmp_path / 'source', tmp_path / 'run')
    assert 'loaded' in told and 'new' not in told
    told = exchange.export_run(tmp_path / 'run', tmp_path / 'back')
    assert told.startswith('step 0 of ') and told.endswith('tokenizer files: tokenizer.json')
    assert (tmp_path / 'back' / 'tokenizer.json').read_text() == '{}'
    assert '\n- parameters: ' in (tmp_path / 'back' / 'README.md').read_text()
    expected, found = (
        load_file(tmp_path / 'source' / WEIGHTS),
        load_file(tmp_path / 'back' / WEIGHTS),
    )
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['back', 'run', 'source']


def tensors(change):
    def damage(folder):
        file = folder / WEIGHTS
        found = load_file(file)
        change(found)
        save_file(found, file)

    return damage


def config(**fields):
    def damage(folder):
        found = json.loads((folder / CONFIG).read_text()) | fields
        kept = {name: value for name, value in found.items() if value is not ...}
        (folder / CONFIG).write_text(json.dumps(kept))

    return damage


def truncated(folder: Path):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-1000])


def index(weight_map):
    def damage(folder):
        text = json.dumps(dict(weight_map=weight_map))
        (folder / 'model.safetensors.index.json').write_text(text)
        (folder / WEIGHTS).unlink()

    return damage


def tokenizer(**files):
    def damage(folder):
        for name, text in files.items():
            (folder / name.replace('_json', '.json').replace('_txt', '.txt')).write_text(text)

    return damage


BAD = {  # what is done to a folder, and the message
    'unknown family': (config(model_type='brt'), "model_type='brt' is no family.*nearest: bert"),
    'no family': (config(model_type=...), 'model_type is missing'),
    'no size': (config(hidden_size=...), 'hidden_size is missing'),
    'bad size': (config(hidden_size='16'), "embed='16' must be an integer"),
    'no number': (
        config(layer_norm_eps='small'),
        "layer_norm_eps='small' must be a number of 0 or more",
    ),
    'no integer': (
        config(max_position_embeddings=16.5),
        'max_position_embeddings=16.5 must be an integer of 0 or more',
    ),
    'unknown activation': (config(hidden_act='gleu'), "activation 'gleu' is not.*nearest: gelu"),
    'unknown variant': (
        config(position_embedding_type='relative_key'),
        "position_embedding_type='relative_key' is not known here; must be 'absolute'",
    ),
    'no config': (lambda folder: (folder / CONFIG).unlink(), 'config.json: there is no such file'),
    'half a config': (lambda f: (f / CONFIG).write_text('{"vocab'), 'config.json: is no JSON'),
    'no object': (lambda f: (f / CONFIG).write_text('[]'), 'must hold a JSON object'),
    'truncated': (truncated, 'bytes are no whole safetensors file'),
    'empty': (lambda f: (f / WEIGHTS).write_bytes(b''), 'are no whole safetensors file'),
    'pickle': (
        lambda f: (f / WEIGHTS).rename(f / 'pytorch_model.bin'),
        r'pytorch_model.bin: is not read, since unpickling runs code; .*save_pretrained',
    ),
    'no weights': (lambda f: (f / WEIGHTS).unlink(), 'must hold model.safetensors or'),
    'architectures that are no list': (config(architectures=7), 'architectures=7 must be of type'),
    'sizes of another type': (
        config(hidden_act=[]),
        'a field of another type than a bert',
    ),
    'half of a head': (
        tensors(lambda x: x.pop('cls.predictions.transform.dense.bias')),
        'cls.predictions.transform.dense.bias is missing',
    ),
    'more ids than rows': (
        tokenizer(vocab_txt='\n'.join(map(str, range(500)))),
        'its tokenizer has 500 ids, but the embedding has',
    ),
    'a tokenizer without pieces': (
        tokenizer(tokenizer_config_json='{}'),
        'has tokenizer_config.json, but none of tokenizer.json, vocab.txt',
    ),
    'absent shard': (index({'a': 'model-7.safetensors'}), 'names model-7.safetensors, which must'),
    'empty index': (index({}), 'names no files at all'),
    'bad index': (index([1]), 'weight_map must be an object'),
    'wrong shape': (
        tensors(lambda t: t.update({QUERY: np.zeros((16, 15), np.float32)})),
        r'query.weight is \[16, 15\] in the file; encoder/blocks.*needs \[16, 16\]',
    ),
    'absent tensor': (tensors(lambda t: t.pop(QUERY)), 'self.query.weight is missing'),
    'half a head': (
        tensors(lambda t: t.pop('cls.predictions.transform.dense.bias')),
        'cls.predictions.transform.dense.bias is missing; heads/mlm/dense/bias needs it',
    ),
    'too few rows': (config(vocab_size=120), r'needs \[120, 16\] \(at least 120 rows\)'),
    'tensors without a place': (
        tensors(lambda t: t.update({'bert.adapter.down': np.zeros(3), 'extra': np.zeros(2)})),
        '2 tensors have no place in a bert model: adapter.down, extra; leave .*strict=False',
    ),
}


@pytest.mark.parametrize('case', BAD)
def test_a_bad_folder_is_one_message_and_leaves_nothing(case, source, tmp_path):
    damage, message = BAD[case]
    damage(source)
    with pytest.raises(ConfigError, match=message):
        exchange.import_folder(source, tmp_path / 'run')
    assert [path.name for path in tmp_path.iterdir()] == ['source']


def test_tensors_without_a_place_may_be_left_out(source, tmp_path):
    tensors(lambda t: t.update(extra=np.zeros(2)))(source)
    told = exchange.import_folder(source, tmp_path / 'run', strict=False)
    assert 'left out 1 tensors of the file:\n  extra' in told


def test_a_folder_that_has_something_is_never_touched(source, tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'mine').write_text('mine')
    (tmp_path / 'run.new').mkdir()
    with pytest.raises(ConfigError, match='run: is there already; name a new folder'):
        exchange.import_folder(source, tmp_path / 'run')
    exchange.import_folder(source, tmp_path / 'other')
    with pytest.raises(ConfigError, match='run: is there already; name a new folder'):
        exchange.export_run(tmp_path / 'other', tmp_path / 'run')
    assert [path.name for path in (tmp_path / 'run').iterdir()] == ['mine']
    assert sorted(p.name for p in tmp_path.iterdir()) == ['other', 'run', 'run.new', 'source']


def test_an_empty_folder_may_be_there(source, tmp_path):
    (tmp_path / 'run').mkdir()
    exchange.import_folder(source, tmp_path / 'run')
    assert (tmp_path / 'run' / exchange.IMPORTED).is_file()


def test_an_export_that_fails_leaves_nothing(source, tmp_path):
    with pytest.raises(ConfigError, match='no run is there'):
        exchange.export_run(tmp_path / 'run', tmp_path / 'back')
    exchange.import_folder(source, tmp_path / 'run')
    with pytest.raises(RunError):
        exchange.export_run(tmp_path / 'run', tmp_path / 'back', step=7)
    with pytest.raises(ConfigError, match="dtype='int8' must be one of float32"):
        exchange.export_run(tmp_path / 'run', tmp_path / 'back', dtype='int8')
    with pytest.raises(OSError, match='disk'), exchange.written_whole(tmp_path / 'back') as new:
        (new / 'half').write_text('half')
        raise OSError('disk')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['run', 'source']


def test_heads_that_no_architecture_has_are_named(bert):
    model = hugging_face.open_folder(bert)
    model = model.family.to_model(model.fields)
    with pytest.raises(ConfigError, match='bert has no head like rank=ClassifierHead'):
        architectures.family_of(model, {'rank': ClassifierHead(labels=3, norm=True)})
    heads = {'sentence': SentenceHead(), 'nsp': ClassifierHead(labels=2)}
    with pytest.raises(
        ConfigError,
        match='no architecture of bert has the heads sentence, nsp together; choose one',
    ):
        architectures.family_of(model, heads)


def test_what_config_json_says_beside_the_architecture_comes_back(bert, tmp_path):
    source = tmp_path / 'source'
    theirs = reference.transformers.BertForSequenceClassification(
        reference.transformers.BertConfig(
            vocab_size=99,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=24,
            pad_token_id=5,
            id2label={0: 'neg', 1: 'pos'},
        )
    )
    reference.save(theirs, source)
    exchange.import_folder(source, tmp_path / 'run')
    exchange.export_run(tmp_path / 'run', tmp_path / 'back')
    before, after = (json.loads((f / CONFIG).read_text()) for f in (source, tmp_path / 'back'))
    assert after == before


def test_an_exported_t5_computes_a_loss_in_transformers(tmp_path):
    config = reference.transformers.T5Config(
        vocab_size=99,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )
    theirs = reference.save(
        reference.transformers.T5ForConditionalGeneration(config), tmp_path / 'source'
    )
    exchange.import_folder(tmp_path / 'source', tmp_path / 'run')
    exchange.export_run(tmp_path / 'run', tmp_path / 'back')
    ours = reference.load(tmp_path / 'source')
    folder = tmp_path / 'without'
    folder.mkdir()
    model = hugging_face.model_of(ours.source)
    hugging_face.write_folder(folder, model, {}, ours.arrays)  # no config.json to begin with
    ids = reference.torch.tensor(reference.tokens(99)[0])
    expected = theirs(input_ids=ids, labels=ids).loss
    for back in (tmp_path / 'back', folder):
        again = type(theirs).from_pretrained(back).eval()
        assert reference.torch.equal(again(input_ids=ids, labels=ids).loss, expected)


def test_an_untied_model_without_its_output_matrix_is_refused(tmp_path):
    config = reference.transformers.LlamaConfig(
        vocab_size=99,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=False,
    )
    reference.save(reference.transformers.LlamaForCausalLM(config), tmp_path / 'source')
    tensors(lambda found: found.pop('lm_head.weight'))(tmp_path / 'source')
    with pytest.raises(ConfigError, match='lm_head.weight is missing'):
        exchange.import_folder(tmp_path / 'source', tmp_path / 'run')


def test_heads_are_chosen_and_called_by_what_the_family_calls_them(bert, tmp_path):
    exchange.import_folder(bert, tmp_path / 'run')
    exchange.export_run(tmp_path / 'run', tmp_path / 'trunk', heads=['none'])
    assert json.loads((tmp_path / 'trunk' / CONFIG).read_text())['architectures'] == ['BertModel']
    with pytest.raises(ConfigError, match='--head mlmm: the run has no such head; nearest: mlm'):
        exchange.export_run(tmp_path / 'run', tmp_path / 'back', heads=['mlmm'])
    model = hugging_face.model_of(hugging_face.open_folder(bert))
    with pytest.raises(ConfigError, match='cola=.* may be nsp or classifier of bert; say which'):
        architectures.family_of(model, {'cola': ClassifierHead(labels=2)})
    assert exchange.chosen_heads({'cola': 1, 'mlm': 2}, ['cola=classifier']) == {
        'cola': 'classifier'
    }


def test_the_command_puts_licence_and_language_into_the_model_card(source, tmp_path):
    exchange.import_folder(source, tmp_path / 'run')
    folders = ['--from', str(tmp_path / 'run'), '--to', str(tmp_path / 'back')]
    main.main(['ckpt', 'export', *folders, '--license', 'cc0-1.0', '--language', 'de'])
    lines = (tmp_path / 'back' / 'README.md').read_text().splitlines()
    assert 'license: "cc0-1.0"' in lines and 'language: "de"' in lines


def test_an_imported_folder_is_no_run_to_go_on_with(bert, tmp_path):
    import fixtures

    from t5x_lite import run

    exchange.import_folder(bert, tmp_path / 'run')
    with pytest.raises(ConfigError, match='holds an imported model; name another folder'):
        run.claim(tmp_path / 'run', fixtures.experiment('mlm'), 'x')
    with pytest.raises(ConfigError, match='is an imported model, that has no data'):
        run.check_trained(tmp_path / 'run')
    (tmp_path / 'run' / 'model.py').write_text('half')
    with pytest.raises(ConfigError, match='model.py: is damaged'):
        exchange.export_run(tmp_path / 'run', tmp_path / 'back')


def test_a_folder_below_a_file_is_one_message(bert, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ConfigError, match='name a folder to write to'):
        exchange.import_folder(bert, tmp_path / 'file' / 'run')
