"""Own WordPiece and BPE vocabularies: the same each time, in any language, ready for objectives."""
# SPDX-License-Identifier: Apache-2.0

import json
import subprocess
import sys

import numpy as np
import pytest
import seqio
import tensorflow as tf
import texts

from t5x_lite.data import hf_vocabulary, loader, sentences, train_tokenizer, train_vocabulary
from t5x_lite.data.text_task import text_task
from t5x_lite.data.tokenizer_vocabulary import TokenizerVocabulary
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Stream
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.objectives.mlm import mlm
from t5x_lite.objectives.span_corruption import span_corruption

tokenizers = pytest.importorskip('tokenizers', reason="pip install 't5x_lite[hf]'")

CHINESE = [
    '今天下雨，所以我们在家里看书。',
    '明天如果天晴，我们就去爬山。',
    '他在家里看书，没有去爬山。',
    '下雨的时候，我们不去爬山，我们看书。',
    '如果明天下雨，他就在家里看书。',
]
ENGLISH = [
    'We stay at home and read when it rains.',
    'If it does not rain tomorrow, we will walk up the mountain.',
    'He stayed at home and read; he did not walk.',
    'When it rains we do not walk, we read at home.',
]


def write_lines(path, rows):
    path.write_text(''.join(row + '\n' for row in rows), encoding='utf-8')
    return path


@pytest.mark.one
@pytest.mark.parametrize('kind', ['wordpiece', 'bpe'])
def test_command_writes_the_same_files_each_time_without_tensorflow(tmp_path, kind):
    rows = texts.corpus() + CHINESE
    source = write_lines(tmp_path / 'own.jsonl', [json.dumps({'text': row}) for row in rows])
    code = (
        'import sys; from t5x_lite.main import main; main(sys.argv[1:]); '
        'sys.exit(any(m in sys.modules for m in ("tensorflow", "seqio", "jax")))'
    )
    found = []
    for name in ('one', 'two'):
        command = ['data', 'vocab', str(source), '--kind', kind, '--size', '1500']
        command += ['--to', str(tmp_path / name)]
        subprocess.run([sys.executable, '-c', code, *command], check=True)
        found.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    assert found[0] == found[1]
    pieces = {'wordpiece': {'vocab.txt'}, 'bpe': {'vocab.json', 'merges.txt'}}[kind]
    assert set(found[0]) == {'tokenizer.json', 'tokenizer_config.json'} | pieces
    assert hf_vocabulary.from_folder(tmp_path / 'one').vocab_size == 1628


def test_every_kind_is_trained_on_english_and_chinese_lines(tmp_path):
    source = write_lines(tmp_path / 'own.txt', [*ENGLISH, '', *CHINESE])
    sizes = {'wordpiece': 130, 'bpe': 350, 'sentencepiece': 340}
    for kind, size in sizes.items():
        train_vocabulary.run(tmp_path / kind, [source], size, kind)
    vocabularies = {
        kind: hf_vocabulary.from_folder(tmp_path / kind) for kind in ('wordpiece', 'bpe')
    }
    model = str(tmp_path / 'sentencepiece')
    vocabularies['sentencepiece'] = seqio.SentencePieceVocabulary(model, extra_ids=128)
    for kind, vocabulary in vocabularies.items():
        assert vocabulary.vocab_size == sizes[kind] + 128
        for text in [*ENGLISH, *CHINESE]:
            ids = vocabulary.encode(text)
            assert 0 < len(ids) < len(text) + 2 and vocabulary.unk_id not in ids
            decoded = vocabulary.decode(ids)
            if kind == 'wordpiece':  # drops white space
                assert decoded.replace(' ', '') == text.replace(' ', '')
            else:
                assert decoded == text
    assert '看书' in vocabularies['bpe'].decode(vocabularies['bpe'].encode('看书'))
    characters = vocabularies['wordpiece'].encode('看书。')
    assert len(characters) == 3  # each ideograph is a word


def test_lowercase_wordpiece_has_no_capitals():
    tokenizer = train_tokenizer.wordpiece(ENGLISH, 90, lowercase=True)
    special = {*train_tokenizer.FIRST, *train_tokenizer.LAST}
    assert all(piece in special or piece == piece.lower() for piece in tokenizer.get_vocab())
    assert tokenizer.encode('RÉAD').ids == tokenizer.encode('read').ids


def test_characters_that_are_too_rare_for_the_size_make_a_word_unknown():
    rows = ['abc ' * 9000 + ''.join(chr(0x4E00 + i) + ' ' for i in range(9))]
    tokenizer = train_tokenizer.wordpiece(rows, 16)  # five letters, and ab and abc
    assert tokenizer.token_to_id('a') and tokenizer.token_to_id('一') is None
    assert tokenizer.encode('一').ids == [tokenizer.token_to_id('[UNK]')]


def objective_streams():
    """Streams by name: objective and lengths."""
    yield 'mlm', mlm(), {'targets': 16}
    yield 'span', span_corruption(), {'inputs': 32, 'targets': 12}
    yield 'clm', causal_lm(), {'targets': 16}


@pytest.mark.one
@pytest.mark.parametrize('kind', ['wordpiece', 'byte_bpe'])
def test_objectives_take_a_trained_vocabulary(tmp_path, kind):
    train_tokenizer.write(getattr(train_tokenizer, kind)(texts.corpus(), 1000), tmp_path)
    vocabulary = hf_vocabulary.from_folder(tmp_path)
    info = vocabulary.info
    rows = [text[:2000] for text in texts.corpus()]
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices({'text': rows}),
        splits=['train'],
    )
    name = f'trained_{kind}'
    text_task(name, source, vocabulary=vocabulary)
    try:
        for label, objective, lengths in objective_streams():
            stream = Stream(mixture=name, objective=objective, lengths=lengths, batch_size=8)
            batches = loader.open_stream(stream, label, vocab=info.size)
            batch = next(batches)
            batches.close()
            check(label, batch, info)
        with pytest.raises(ConfigError, match='has 1128 ids, but model.vocab=1000; try .*=1128'):
            loader.open_stream(stream, label, vocab=1000)
    finally:
        seqio.TaskRegistry.remove(name)


def check(label, batch, info):
    if label == 'mlm':
        inputs, targets = batch['encoder_input_tokens'], batch['encoder_target_tokens']
        scored = batch['encoder_loss_weights'] > 0
        assert (targets[:, 0] == info.cls).all() and (inputs == info.mask).any()
        assert not info.special[targets[scored]].any()
        np.testing.assert_array_equal(inputs[~scored], targets[~scored])
    elif label == 'span':
        assert (batch['encoder_input_tokens'] == info.sentinels[0]).sum(1).tolist() == [1] * 8
        assert (batch['decoder_target_tokens'][:, 0] == info.sentinels[0]).all()
    else:
        assert batch['decoder_target_tokens'].max() < info.size
        text = info.text(batch['decoder_target_tokens'][0])
        assert len(text) > 16


def test_trained_pieces_mark_sentences():
    vocabulary = TokenizerVocabulary(
        train_tokenizer.byte_bpe(texts.corpus(), 1000), train_tokenizer.NAMES
    )
    info = vocabulary.info
    ids = np.array(vocabulary.encode(texts.corpus()[0]), np.int32)
    tokens, lengths = sentences.split(ids, sentences.marks(info))
    parts = np.split(tokens, np.cumsum(lengths)[:-1])
    assert len(parts) > 50
    ends = [info.text(part).rstrip('"\')').endswith(('.', '!', '?')) for part in parts]
    assert np.mean(ends) > 0.9


@pytest.mark.parametrize(
    'kind, rows, size, message',
    [
        ('wordpiece', ['', ' ', ''], 1000, 'the training texts are empty'),
        ('bpe', ['', ' ', ''], 1000, 'the training texts are empty'),
        ('wordpiece', ENGLISH, 20, r'size=20 must be \d+ or more for the letters .*; try \d+'),
        ('wordpiece', ENGLISH, -5, r'size=-5 must be \d+ or more for the letters'),
        ('bpe', ENGLISH, 265, 'size=265 must be more than 265'),
        ('wordpiece', ENGLISH, 8064, r'size=8064 is too large .* give (\d+) pieces; try \1'),
        ('bpe', ENGLISH, 8064, r'size=8064 is too large .* give (\d+) pieces; try \1'),
    ],
)
def test_text_and_size_that_do_not_fit_are_refused_and_nothing_is_written(
    tmp_path, kind, rows, size, message
):
    source = write_lines(tmp_path / 'own.txt', rows)
    with pytest.raises(ConfigError, match=message):
        train_vocabulary.run(tmp_path / 'out', [source], size, kind)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('kind', ['sentencepiece', 'wordpiece', 'bpe'])
def test_bad_files_are_refused_and_nothing_is_written(tmp_path, kind):
    for name, content, message in (
        ('empty.txt', b'', 'empty.txt: holds no documents; need UTF-8, one document per line'),
        ('latin.txt', b'\xe9\n', 'latin.txt: line 0: .*utf-8'),
        ('no.jsonl', None, 'no.jsonl: .*No such file'),
        ('bad.jsonl', b'{"text": 1}\n', 'bad.jsonl: line 1: no "text"'),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            train_vocabulary.run(tmp_path / 'out', [tmp_path / name], 1000, kind)
    assert not (tmp_path / 'out').exists()


def test_places_and_options_that_do_not_suit_the_kind_are_refused(tmp_path):
    (tmp_path / 'file').write_text('here')
    for place, kind, lowercase, message in (
        (tmp_path, 'sentencepiece', False, 'must be the file to write'),
        (tmp_path / 'file', 'bpe', False, 'must be the folder to write'),
        (tmp_path / 'file/below', 'bpe', False, 'must be a folder that can be made'),
        (tmp_path / 'out', 'bpe', True, '--lowercase: is for --kind=wordpiece, not bpe'),
    ):
        source = write_lines(tmp_path / 'own.txt', ENGLISH)
        with pytest.raises(ConfigError, match=message):
            train_vocabulary.run(place, [source], 300, kind, lowercase)
    assert (tmp_path / 'file').read_text() == 'here'
