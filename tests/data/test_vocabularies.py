"""Vocabularies: lossless, exact in bytes, ids found by name, remade by their command."""
# SPDX-License-Identifier: Apache-2.0

import itertools
import json
import lzma
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece
import seqio
import tensorflow as tf

from t5x_lite.data import corpora, train_vocabulary, vocabularies
from t5x_lite.errors import ConfigError

ODD_TEXTS = [
    '',
    ' ',
    'no newline at the end',
    '\n\n  two  spaces \n',
    '\t\r\n\x00\x0b',
    'a\u00a0b \u200b\u2028\ufeff',
    '漢字 🎉 e\u0301 é \u0378 \U0010ffff \ufffd',
    'ＡΩ ﬁ ½',
    '[MASK] [CLS] <pad> </s> <unk> <0x41> [NLU] <extra_id_0>',
]


@pytest.fixture(scope='module')
def vocabulary():
    return vocabularies.bundled()


@pytest.fixture(scope='module')
def info(vocabulary):
    return vocabularies.describe(vocabulary)


def validation_texts():
    return [document['text'] for document in corpora.documents(corpora.split_path('validation'))]


@pytest.mark.parametrize('text', ODD_TEXTS)
def test_odd_text_survives_and_makes_no_special_id(vocabulary, info, text):
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    ordinary = [i for i in ids if i not in info.sentinels]  # seqio reads ' <extra_id_0>' as one
    assert not info.special[ordinary].any()


def test_every_validation_document_survives_and_its_bytes_add_up(vocabulary, info):
    texts = validation_texts()
    assert len(texts) == 18
    for text in texts:
        ids = vocabulary.encode(text)
        assert vocabulary.decode(ids) == text
        assert info.bytes_per_token[ids].sum() == len(text.encode())


def test_the_mark_for_a_space_is_the_one_character_lost(vocabulary):
    assert vocabulary.decode(vocabulary.encode('a▁b')) == 'a b'


@pytest.mark.parametrize('text', ODD_TEXTS)
def test_tensorflow_and_python_give_the_same_ids(vocabulary, text):
    assert vocabulary.encode_tf(text).numpy().tolist() == vocabulary.encode(text)


def test_bundled_ids(info):
    assert info.size == 8192
    assert (info.pad, info.eos, info.unk, info.bos) == (0, 1, 2, None)
    assert (info.cls, info.sep, info.mask) == (3, 4, 5)
    assert info.modes == {'[NLU]': 6, '[S2S]': 7, '[NLG]': 8}
    assert info.sentinels == tuple(range(8191, 8191 - 128, -1))
    assert info.pieces[info.sentinels[0]] == '▁<extra_id_0>'
    assert np.flatnonzero(info.special).tolist() == [*range(9), *range(8064, 8192)]


def test_newline_and_bytes_are_text_of_one_byte(info):
    newline = info.pieces.index('\n')
    byte = info.pieces.index('<0xFF>')
    assert not info.special[[newline, byte]].any()
    assert info.bytes_per_token[[newline, byte]].tolist() == [1, 1]


def test_special_ids_stand_for_no_text_and_all_others_for_some(info):
    np.testing.assert_array_equal(info.bytes_per_token == 0, info.special)


def test_description_is_made_once_and_cannot_be_changed(info):
    assert vocabularies.describe(vocabularies.bundled()) is info
    with pytest.raises(ValueError, match='read-only'):
        info.special[0] = False


def test_byte_vocabulary():
    vocabulary = seqio.ByteVocabulary(extra_ids=2)
    info = vocabularies.describe(vocabulary)
    assert info.size == vocabulary.vocab_size == 261
    assert (info.pad, info.eos, info.unk, info.mask, info.cls) == (0, 1, 2, None, None)
    assert info.sentinels == (260, 259)
    assert np.flatnonzero(info.special).tolist() == [0, 1, 2, 259, 260]
    ids = vocabulary.encode('é x')
    assert [info.pieces[i] for i in ids] == ['<0xC3>', '<0xA9>', '▁', 'x']
    assert info.bytes_per_token[ids].sum() == 4


def test_sentinels_are_found_by_name_in_either_order(vocabulary):
    file = vocabulary.sentencepiece_model_file
    ascending = seqio.SentencePieceVocabulary(file, extra_ids=3, reverse_extra_ids=False)
    assert vocabularies.describe(ascending).sentinels == (8064, 8065, 8066)
    assert vocabularies.describe(seqio.SentencePieceVocabulary(file)).sentinels == ()


def test_texts_in_a_dataset_have_the_ids_that_seqio_gives(vocabulary):
    plain = seqio.SentencePieceVocabulary(vocabulary.sentencepiece_model_file, extra_ids=128)
    texts = [*ODD_TEXTS, *itertools.islice(validation_texts(), 20)]
    dataset = tf.data.Dataset.from_tensor_slices(texts).map(vocabulary.encode_tf)
    assert [ids.tolist() for ids in dataset.as_numpy_iterator()] == [plain.encode(t) for t in texts]
    together = vocabulary.encode_tf(tf.constant(texts[:3])).to_list()
    assert together == [plain.encode(text) for text in texts[:3]]
    assert vocabulary == plain


def test_other_vocabularies_are_refused():
    with pytest.raises(ConfigError, match=r'PassThroughVocabulary.*use seqio.SentencePiece'):
        vocabularies.describe(seqio.PassThroughVocabulary(10))


def test_command_makes_the_shipped_vocabulary_again(tmp_path, info):
    train_vocabulary.run(tmp_path / 'new' / 'vocabulary.model')
    made = seqio.SentencePieceVocabulary(str(tmp_path / 'new' / 'vocabulary.model'), extra_ids=128)
    assert vocabularies.describe(made).pieces == info.pieces


def test_vocabulary_of_own_files(tmp_path):
    lines = [json.dumps({'text': text}) for text in validation_texts()]
    (tmp_path / 'own.jsonl').write_text('\n'.join(lines), encoding='utf-8')
    train_vocabulary.run(tmp_path / 'own.model', [tmp_path / 'own.jsonl'], size=1000)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / 'own.model'))
    assert processor.get_piece_size() == 1000


@pytest.mark.parametrize(
    ('texts', 'size', 'message'),
    [
        ([], 8064, 'texts are empty'),
        (['\n\n'], 8064, 'texts are empty'),
        (['too few words'], 8064, 'size=8064'),
        (['too few ids'], 100, 'size=100'),
    ],
)
def test_vocabulary_that_cannot_be_trained_is_refused(tmp_path, texts, size, message):
    with pytest.raises(ConfigError, match=message):
        train_vocabulary.train(texts, tmp_path / 'model', size)
    assert not (tmp_path / 'model').exists()


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('missing.jsonl', None, 'No such file'),
        ('empty.jsonl', b'', 'no documents'),
        ('empty.jsonl.xz', lzma.compress(b''), 'no documents'),
        ('damaged.jsonl.xz', b'not xz', 'line 0'),
        ('cut.jsonl.xz', lzma.compress(b'{"text": "x"}\n' * 9)[:-20], 'line'),
        ('words.jsonl', b'just words\n', 'line 1'),
        ('list.jsonl', b'["text"]\n', 'line 1: no "text"'),
        ('second.jsonl', b'{"text": "x"}\n{"body": "x"}\n', 'line 2: no "text"'),
        ('latin1.jsonl', b'{"text": "\xe9"}\n', 'utf-8'),
    ],
)
def test_bad_corpus_file_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f'{name}.*{message}'):
        list(corpora.documents(path))


def test_importing_vocabularies_imports_no_tensorflow():
    code = (
        'import sys; from t5x_lite.data import corpora, train_vocabulary, vocabularies; '
        'sys.exit(any(m in sys.modules for m in ("tensorflow", "seqio", "sentencepiece")))'
    )
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
