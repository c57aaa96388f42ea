"""A trained run's vocabulary is written beside its weights and read back the same."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import fixtures
import pytest
import seqio

from t5x_lite.data import hf_vocabulary, train_tokenizer, vocabularies
from t5x_lite.errors import ConfigError
from t5x_lite.interop import kept_files

TEXT = 'It was the best of times, naïve — 东京 <extra_id_3> [MASK]\nEnd.'


def own(kind, folder):
    texts = ['it was the best of times it was the worst of times'] * 9
    train = {'bpe': train_tokenizer.byte_bpe, 'wordpiece': train_tokenizer.wordpiece}[kind]
    train_tokenizer.write(train(texts, 280 if kind == 'bpe' else 40), folder)
    return hf_vocabulary.from_folder(folder)


KINDS = {
    'sentencepiece': lambda folder: vocabularies.bundled(),
    'bytes': lambda folder: seqio.ByteVocabulary(extra_ids=100),
    'bpe': lambda folder: own('bpe', folder),
    'wordpiece': lambda folder: own('wordpiece', folder),
}


def experiment_on(vocabulary, name='exported'):
    seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add(
        name,
        seqio.FunctionDataSource(lambda split, shuffle_files, seed=None: None, splits=('train',)),
        preprocessors=[],
        output_features={'targets': seqio.Feature(vocabulary, add_eos=False)},
    )
    experiment = fixtures.experiment('clm')
    stream = dataclasses.replace(experiment.streams['clm'], mixture=name)
    return dataclasses.replace(experiment, streams={'clm': stream})


@pytest.mark.parametrize('kind', KINDS)
def test_what_is_written_reads_back_with_the_same_ids(kind, tmp_path):
    (tmp_path / 'own').mkdir()
    vocabulary, folder = KINDS[kind](tmp_path / 'own'), tmp_path / 'files'
    folder.mkdir()
    names = kept_files.write(experiment_on(vocabulary), folder)
    assert names and all((folder / name).stat().st_size for name in names)
    back = hf_vocabulary.from_folder(folder)
    assert back.encode(TEXT) == vocabulary.encode(TEXT)
    ours, theirs = vocabularies.describe(vocabulary), vocabularies.describe(back)
    for role in ('size', 'pad', 'eos', 'unk', 'bos', 'cls', 'sep', 'mask', 'sentinels', 'modes'):
        assert getattr(ours, role) == getattr(theirs, role), role


def test_a_vocabulary_without_files_is_named(tmp_path):
    experiment = experiment_on(seqio.PassThroughVocabulary(size=64))
    with pytest.raises(
        ConfigError, match="mixture 'exported': a PassThroughVocabulary has no files"
    ):
        kept_files.write(experiment, tmp_path)
