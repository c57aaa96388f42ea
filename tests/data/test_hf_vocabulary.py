"""Vocabularies of Hugging Face files: in tf.data as in Python, described, saved, refused."""
# SPDX-License-Identifier: Apache-2.0

import itertools
import json
import pickle
import sys

import numpy as np
import pytest
import seqio
import tensorflow as tf
import texts

from t5x_lite.data import (
    corpora,
    hf_files,
    hf_pieces,
    hf_vocabulary,
    sentences,
    seqio_source,
    train_tokenizer,
    vocabularies,
)
from t5x_lite.data.text_task import text_task
from t5x_lite.errors import ConfigError

tokenizers = pytest.importorskip('tokenizers', reason="pip install 't5x_lite[hf]'")

SENTENCES = 'Mr. Bennet saw it. "He came!" It cost 3.5 pounds... Did it? It was so.'
KINDS = ('wordpiece', 'uncased', 'bpe', 'unigram')


def unigram(training):
    """A tokenizer of T5's kind."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    special = ['<pad>', '</s>', '<unk>']
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=1000, special_tokens=special, unk_token='<unk>', show_progress=False
    )
    tokenizer.train_from_iterator(training, trainer)
    tokenizer.add_special_tokens([f'<extra_id_{i}>' for i in reversed(range(3))])
    return tokenizer


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """A folder of files for each kind."""
    root, training = tmp_path_factory.mktemp('kinds'), texts.training_texts()
    made = {
        'wordpiece': train_tokenizer.wordpiece(training, 2000),
        'uncased': train_tokenizer.wordpiece(training, 2000, lowercase=True),
        'bpe': train_tokenizer.byte_bpe(training, 2000),
        'unigram': unigram(training),
    }
    for kind, tokenizer in made.items():
        (root / kind).mkdir()
        if kind == 'unigram':
            tokenizer.save(str(root / kind / 'tokenizer.json'))
        else:
            train_tokenizer.write(tokenizer, root / kind)
    return root


@pytest.fixture(params=KINDS)
def vocabulary(request, folders):
    return hf_vocabulary.from_folder(folders / request.param)


@pytest.fixture
def named(folders):
    return lambda kind: hf_vocabulary.from_folder(folders / kind)


def test_tensorflow_and_python_give_the_same_ids_and_text(vocabulary):
    trying = texts.trying_texts()
    expected = [vocabulary.encode(text) for text in trying]
    together = vocabulary.encode_tf(tf.constant(trying))
    assert together.dtype == tf.int32 and together.to_list() == expected
    for text, ids in list(zip(trying, expected, strict=True))[-50:]:
        one = vocabulary.encode_tf(tf.constant(text))
        assert (one.dtype, one.numpy().tolist()) == (tf.int32, ids)
        assert vocabulary.decode_tf(one).numpy().decode() == vocabulary.decode(ids)
    pair = vocabulary.decode_tf(vocabulary.encode_tf(['a b', 'c d']).to_tensor()[:, :1])
    assert pair.shape == (2,)


def test_invalid_utf8_is_read_as_replacement_characters(named):
    vocabulary = named('bpe')
    assert vocabulary.decode_tf(vocabulary.encode_tf(b'a\xffb')).numpy().decode() == 'a\ufffdb'


def test_shapes_are_known_in_a_dataset(vocabulary):
    dataset = tf.data.Dataset.from_tensor_slices(['a', 'b c']).map(vocabulary.encode_tf)
    assert dataset.element_spec == tf.TensorSpec([None], tf.int32)


def test_vocabulary_survives_pickling_and_equals_only_itself(vocabulary, named):
    again = pickle.loads(pickle.dumps(vocabulary))
    assert again == vocabulary and seqio.Feature(again) == seqio.Feature(vocabulary)
    assert again.encode(SENTENCES) == vocabulary.encode(SENTENCES)
    assert sum(vocabulary == named(kind) for kind in KINDS) == 1
    assert vocabulary != seqio.ByteVocabulary()


@pytest.mark.parametrize('kind', [*KINDS, 'bytes', 'sentencepiece'])
def test_task_goes_on_from_a_saved_position(kind, folders):
    known = {'bytes': seqio.ByteVocabulary(), 'sentencepiece': vocabularies.bundled()}
    vocabulary = known.get(kind) or hf_vocabulary.from_folder(folders / kind)
    rows = [f'Document {i}. ' * (i + 1) for i in range(9)]
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices({'text': rows}),
        splits=['train'],
    )
    name = f'saved_{kind}'
    text_task(name, source, vocabulary=vocabulary, shuffle_buffer=4)
    try:
        again = lambda: seqio_source.Examples(
            name, ('targets',), split='train', seed=5, shuffle=True, epochs=None
        )
        examples = again()
        first = [next(examples)['targets'].tolist() for _ in range(7)]
        state = examples.state()
        rest = [next(examples)['targets'].tolist() for _ in range(20)]
        restored = again()
        restored.restore(state)
        assert [next(restored)['targets'].tolist() for _ in range(20)] == rest
        known_rows = [list(vocabulary.encode(row)) for row in rows]
        assert all(row in known_rows for row in first + rest)
        assert seqio_source.vocabulary(name, ('targets',)).size == vocabulary.vocab_size
    finally:
        seqio.TaskRegistry.remove(name)


def test_trained_vocabularies_have_the_ids_of_the_bundled_one(named):
    bundled = vocabularies.describe(vocabularies.bundled())
    for kind in KINDS[:3]:
        vocabulary = named(kind)
        info = vocabularies.describe(vocabulary)
        assert info is vocabularies.describe(vocabulary)
        for role in ('pad', 'eos', 'unk', 'bos', 'cls', 'sep', 'mask', 'modes'):
            assert getattr(info, role) == getattr(bundled, role), role
        assert info.size == vocabulary.vocab_size == 2128
        assert info.sentinels == tuple(range(2127, 1999, -1))
        assert np.flatnonzero(info.special).tolist() == [*range(9), *range(2000, 2128)]
        assert not info.bytes_per_token[info.special].any()
        assert not info.starts_word[info.special].any()
        with pytest.raises(ValueError, match='read-only'):
            info.starts_word[0] = True


def test_byte_bpe_loses_nothing_and_its_bytes_add_up(named):
    vocabulary = named('bpe')
    info = vocabulary.info
    for text in texts.trying_texts():
        ids = vocabulary.encode(text)
        assert info.text(ids) == vocabulary.decode(ids) == text
        assert info.bytes_per_token[ids].sum() == len(text.encode())


@pytest.mark.parametrize('kind', ['wordpiece', 'uncased'])
def test_bytes_of_wordpiece_are_near_those_of_plain_text(named, kind):
    vocabulary = named(kind)
    found = sum(vocabulary.info.bytes_per_token[vocabulary.encode(t)].sum() for t in texts.corpus())
    assert found == pytest.approx(sum(len(text.encode()) for text in texts.corpus()), rel=0.01)


def shown(vocabulary, text):
    info, ids = vocabulary.info, vocabulary.encode(text)
    return [info.pieces[i] for i in ids], info.starts_word[ids].tolist()


def test_pieces_say_where_words_begin(named):
    pieces, starts = shown(named('wordpiece'), 'of the, zq')
    assert pieces == ['▁of', '▁the', ',', '▁z', 'q'] and starts == [1, 1, 1, 1, 0]
    pieces, starts = shown(named('uncased'), 'OF the')
    assert pieces == ['▁of', '▁the'] and starts == [1, 1]
    pieces, starts = shown(named('bpe'), ' of the,\n')
    assert pieces == ['▁of', '▁the', ',', '\n'] and starts == [1, 1, 0, 1]
    pieces, starts = shown(named('unigram'), 'of the')
    assert pieces == ['▁of', '▁the'] and starts == [1, 1]
    pieces, starts = shown(named('bpe'), '\U00020000')
    assert pieces == ['<0xF0>', '<0xA0>', '<0x80>', '<0x80>'] and not any(starts)


def test_text_ends_at_eos_leaves_out_padding_and_names_special_tokens(named):
    for kind, text in (('bpe', 'It was so.'), ('wordpiece', 'It was so.'), ('unigram', 'It was')):
        vocabulary = named(kind)
        info = vocabulary.info
        ids = [*vocabulary.encode(text), info.pad, info.eos, 9]
        assert info.text(np.array(ids)) == text
    ids = [info.sentinels[0], info.size + 4]
    assert info.text(ids) == f'<extra_id_0><id {info.size + 4}>'
    assert named('wordpiece').info.text([3, 5, 4]) == '[CLS] [MASK] [SEP]'


@pytest.mark.parametrize('kind', KINDS)
def test_sentences_are_found_by_pieces(named, kind):
    vocabulary = named(kind)
    info = vocabulary.info
    ids = np.array(vocabulary.encode(SENTENCES), np.int32)
    starts = np.flatnonzero(sentences.boundaries(ids, sentences.marks(info)))
    found = [info.text(part).strip().lower() for part in np.split(ids, starts[1:])]
    plain = [part.replace(' ', '') for part in found]
    expected = [
        'Mr. Bennet saw it.',
        '"He came!"',
        'It cost 3.5 pounds...',
        'Did it?',
        'It was so.',
    ]
    expected = [part.replace(' ', '').lower() for part in expected]
    if kind in ('wordpiece', 'uncased'):  # a quote is a word, of which side it is not said
        expected[:2] = [expected[0] + '"', expected[1][1:]]
    assert plain == expected


def write_json(folder, tokenizer, **config):
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / 'tokenizer.json'))
    (folder / 'tokenizer_config.json').write_text(json.dumps(config))
    return hf_vocabulary.from_folder(folder)


def small_bpe(*special, after=()):
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    ids = {piece: i for i, piece in enumerate([*special, *alphabet, *after])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(ids, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def test_special_tokens_are_those_that_the_files_name(tmp_path):
    after = ['[MASK]', '<|endoftext|>', '<gap>', '[PAD]', '[CLS]', '[SEP]', '[UNK]']
    tokenizer = small_bpe(after=after)
    info = write_json(tmp_path / 'a', tokenizer).info  # ModernBERT's kind: pad is not 0
    assert (info.mask, info.eos, info.bos, info.pad, info.cls, info.sep) == (
        256,
        257,
        257,
        259,
        260,
        261,
    )
    assert np.flatnonzero(info.special).tolist() == [256, 257, 259, 260, 261, 262]
    config = dict(mask_token={'content': '<gap>', 'lstrip': True}, eos_token=None)
    vocabulary = write_json(tmp_path / 'b', tokenizer, **config)
    info = vocabulary.info
    assert (info.mask, info.eos, info.bos) == (258, None, 257)
    assert vocabulary.encode('a <gap>') == [*vocabulary.encode('a'), 258]  # takes the space
    (tmp_path / 'b/tokenizer_config.json').unlink()
    (tmp_path / 'b/special_tokens_map.json').write_text('{"sep_token": "<gap>"}')
    assert hf_vocabulary.from_folder(tmp_path / 'b').info.sep == 258


def test_roberta_opens_rows_with_bos_and_ends_them_with_eos(tmp_path):
    info = write_json(tmp_path, small_bpe('<s>', '<pad>', '</s>', '<unk>', after=['<mask>'])).info
    assert (info.cls, info.bos, info.pad, info.sep, info.eos) == (0, 0, 1, 2, 2)
    assert (info.unk, info.mask) == (3, 260)


def test_without_a_pad_token_id_0_is_text(tmp_path):
    info = write_json(tmp_path, small_bpe(after=['<|endoftext|>'])).info
    assert (info.pad, info.bos, info.eos, info.pieces[0]) == (0, 256, 256, '!')
    assert info.text([256, 0, 1, 256, 5]) == '!"'


def test_tokens_that_the_files_add_follow_the_vocabulary(tmp_path):
    small_bpe(after=['<|endoftext|>']).model.save(str(tmp_path))
    (tmp_path / 'added_tokens.json').write_text('{"<pad>": 257, "<x>": 258}')
    vocabulary = hf_vocabulary.from_folder(tmp_path)
    assert (vocabulary.info.pad, vocabulary.vocab_size) == (257, 259)
    assert vocabulary.encode('<x>') == [258]
    (tmp_path / 'added_tokens.json').write_text('{"<pad>": 300}')
    with pytest.raises(ConfigError, match="'<pad>' has id 300 .* but 257 by the vocabulary"):
        hf_vocabulary.from_folder(tmp_path)


def test_padding_truncation_and_templates_of_the_file_do_not_touch_ids(tmp_path):
    tokenizer = small_bpe('[CLS]', '[PAD]')
    expected = write_json(tmp_path, tokenizer).encode('a long text')
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=20)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single='[CLS] $A', special_tokens=[('[CLS]', 0)]
    )
    assert write_json(tmp_path, tokenizer).encode('a long text') == expected


def test_other_decoders_are_described(tmp_path):
    read = lambda decoder, token, **model: hf_pieces._reader({'decoder': decoder, 'model': model})(
        token
    )
    suffix = {'type': 'BPEDecoder', 'suffix': '</w>'}
    assert read(suffix, 'end</w>')[:2] == ('end▁', 4) and read(suffix, 'en')[:2] == ('en', 2)
    parts = [{'type': 'Replace'}, {'type': 'ByteFallback'}, {'type': 'Fuse'}]
    llama = {'type': 'Sequence', 'decoders': parts}
    assert read(llama, '<0x0A>', byte_fallback=True) == ('<0x0A>', 1, False, False)
    assert read(llama, '▁é', byte_fallback=True) == ('▁é', 3, True, False)
    assert read(None, 'word') == ('▁word', 5, True, False)


def test_lower_case_is_what_the_config_says_else_what_the_pieces_are(folders, tmp_path):
    for kind in ('wordpiece', 'uncased'):
        lines = (folders / kind / 'vocab.txt').read_text(encoding='utf-8')
        (tmp_path / 'vocab.txt').write_text(lines, encoding='utf-8')
        ids = hf_vocabulary.from_folder(tmp_path).encode(SENTENCES)
        assert ids == hf_vocabulary.from_folder(folders / kind).encode(SENTENCES)
    for lowercase in (True, False):
        config = json.dumps({'do_lower_case': lowercase, 'unk_token': '[UNK]'})
        (tmp_path / 'tokenizer_config.json').write_text(config)
        wanted = hf_vocabulary.wordpiece(tmp_path / 'vocab.txt', lowercase=lowercase)
        assert hf_vocabulary.from_folder(tmp_path).encode('It ÉÉ') == wanted.encode('It ÉÉ')


@pytest.mark.parametrize('kind', ['wordpiece', 'bpe'])
def test_older_files_give_the_ids_of_tokenizer_json(folders, tmp_path, kind):
    for file in (folders / kind).iterdir():
        if file.name != 'tokenizer.json':
            (tmp_path / file.name).write_bytes(file.read_bytes())
    older, newer = hf_vocabulary.from_folder(tmp_path), hf_vocabulary.from_folder(folders / kind)
    for text in [*texts.trying_texts()[-200:], 'a [MASK] <extra_id_0> [NLU]</s>']:
        assert older.encode(text) == newer.encode(text)
    assert older.info.pieces == newer.info.pieces
    assert (older.info.special == newer.info.special).all()


GOOD = {'vocab.json': '{"a": 0, "b": 1, "ab": 2}', 'merges.txt': '#version: 0.2\na b\n'}


@pytest.mark.parametrize(
    'files, message',
    [
        ({}, 'holds none of tokenizer.json, vocab.txt, .* but nothing; copy'),
        ({'config.json': '{}'}, r'but config\.json; copy'),
        ({'a.model': '', 'b.model': ''}, r'but a\.model, b\.model'),
        ({'spiece.model': 'junk'}, 'spiece.model: is no SentencePiece model'),
        ({'tokenizer.json': '{"version": '}, r'tokenizer\.json: must be JSON, but'),
        ({'tokenizer.json': '[]'}, 'must be a JSON object, but is a list'),
        ({'tokenizer.json': '{"model": {}}'}, 'tokenizer.json: tokenizers .* cannot read it'),
        ({'tokenizer.json': '{}', 'tokenizer_config.json': '{'}, 'tokenizer_config.json: must be'),
        ({'tokenizer_config.json': '{"added_tokens_decoder": []}'}, 'must have the form'),
        ({'tokenizer_config.json': '{"mask_token": {}}'}, "must have the form .*'content'"),
        ({'vocab.txt': '[UNK]\na\na\n'}, "vocab.txt: line 3: 'a' is there already, on line 2"),
        ({'vocab.txt': '[PAD]\na\n'}, r'vocab.txt: 2 pieces, but \[UNK\] must be one of them'),
        ({'vocab.txt': ''}, r'\[UNK\] must be one of them'),
        ({'vocab.txt': b'[UNK]\n\xff\n'}, 'vocab.txt: cannot be read .*utf-8'),
        ({**GOOD, 'vocab.json': '{"a": "0"}'}, 'vocab.json: must map each piece to its id'),
        ({**GOOD, 'vocab.json': '{}'}, 'vocab.json: must map each piece to its id'),
        ({**GOOD, 'vocab.json': '{"a": 0, "b": 0}'}, 'two pieces have one id'),
        ({**GOOD, 'merges.txt': 'a b\na\n'}, "line 2: 'a' must be two pieces"),
        ({**GOOD, 'merges.txt': 'a x\n'}, "merges a and x, but .* has no piece 'x'"),
        (
            {'s.model': '', 'tokenizer_config.json': '{"tokenizer_class": "XLMRobertaTokenizer"}'},
            'XLMRobertaTokenizer may number the pieces in its own way',
        ),
    ],
)
def test_bad_files_are_refused(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message):
        hf_vocabulary.from_folder(tmp_path)


@pytest.mark.parametrize(
    'config, sentinels',
    [
        (None, 0),
        ({'tokenizer_class': 'T5Tokenizer'}, 100),
        ({'tokenizer_class': 'T5Tokenizer', 'extra_ids': 0}, 0),  # mT5
        ({'tokenizer_class': 'T5TokenizerFast', 'extra_ids': 7}, 7),
        ({'additional_special_tokens': ['<extra_id_0>', '<extra_id_1>', '<x>']}, 2),
    ],
)
def test_sentencepiece_has_the_sentinels_that_its_folder_tells_of(tmp_path, config, sentinels):
    model = corpora.CORPUS_EN_PD / 'vocabulary.model'
    (tmp_path / 'spiece.model').write_bytes(model.read_bytes())
    if config is not None:
        (tmp_path / 'tokenizer_config.json').write_text(json.dumps(config))
    info = vocabularies.describe(hf_vocabulary.from_folder(tmp_path))
    assert info.sentinels == tuple(8064 + i for i in reversed(range(sentinels)))


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(ConfigError, match='no: must be a folder'):
        hf_vocabulary.from_folder(tmp_path / 'no')
    for call in (
        lambda: hf_vocabulary.wordpiece(tmp_path / 'no.txt', lowercase=True),
        lambda: hf_vocabulary.byte_bpe(tmp_path / 'no.json', tmp_path / 'no.txt'),
        lambda: hf_vocabulary.tokenizer_json(tmp_path / 'no.json'),
    ):
        with pytest.raises(ConfigError, match=r'vocabulary file .*no\.\w+: cannot be read'):
            call()


def test_missing_library_is_one_message(monkeypatch):
    monkeypatch.setitem(sys.modules, 'tokenizers', None)
    with pytest.raises(ConfigError, match=r"pip install 't5x_lite\[hf\]'"):
        hf_files.library()
    with pytest.raises(ConfigError, match=r"pip install 't5x_lite\[hf\]'"):
        train_tokenizer.byte_bpe(itertools.repeat('text'), 2000)
