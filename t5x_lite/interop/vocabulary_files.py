"""Tokenizer files of a run: copied with weights, or written from its mixture's vocabulary."""
# SPDX-License-Identifier: Apache-2.0

import json
import shutil
from pathlib import Path

from t5x_lite.errors import ConfigError

NAMES = (
    'tokenizer.json',
    'tokenizer_config.json',
    'special_tokens_map.json',
    'added_tokens.json',
    'vocab.txt',
    'vocab.json',
    'merges.txt',
    'spiece.model',
    'tokenizer.model',
)


def copy(source: Path, target: Path) -> list[str]:
    """The names of the tokenizer files in `source`, now in `target` too."""
    found = [name for name in NAMES if (source / name).is_file()]
    for name in found:
        target.mkdir(exist_ok=True)
        shutil.copyfile(source / name, target / name)
    return found


def write(experiment, folder: Path) -> list[str]:
    """Writes the vocabulary of the experiment's first stream; the names of the files.

    Raises:
      ConfigError: the data side is not installed, the mixture is not registered, or its vocabulary
        is of a kind without files.
    """
    from t5x_lite.data import seqio_source

    seqio = seqio_source.import_seqio()
    stream = next(iter(experiment.streams.values()))
    features = seqio_source.find(stream.mixture, experiment.imports).output_features
    vocabulary = features[stream.objective.converter.features[-1]].vocabulary
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
        shutil.copyfile(vocabulary.sentencepiece_model_file, folder / 'spiece.model')
        _config(folder, extra_ids=vocabulary.extra_ids)
    elif isinstance(vocabulary, seqio.ByteVocabulary):
        _config(folder, extra_ids=vocabulary.extra_ids, tokenizer_class='ByT5Tokenizer')
    elif hasattr(vocabulary, 'save'):
        vocabulary.save(folder)
    else:
        raise ConfigError(
            f'mixture {stream.mixture!r}: a {type(vocabulary).__name__} has no files to write; use '
            'one of data/hf_vocabulary.py or of SentencePiece'
        )
    return [name for name in NAMES if (folder / name).is_file()]


def _config(folder: Path, **fields) -> None:
    text = json.dumps(fields, indent=2, sort_keys=True) + '\n'
    (folder / 'tokenizer_config.json').write_text(text, encoding='utf-8')
