"""What a run keeps of Hugging Face files beside weights: config.json, and tokenizer files."""
# SPDX-License-Identifier: Apache-2.0

import json
import shutil
from pathlib import Path

from t5x_lite.errors import ConfigError
from t5x_lite.interop import files

FOLDER = 'hugging_face'  # of a run
PIECES = ('tokenizer.json', 'vocab.txt', 'vocab.json', 'spiece.model', 'tokenizer.model')
PIECES += ('sentencepiece.bpe.model',)
CONFIGS = ('config.json', 'generation_config.json')
TOKENIZER = (
    'tokenizer.json',
    'tokenizer_config.json',
    'special_tokens_map.json',
    'added_tokens.json',
    'vocab.txt',
    'vocab.json',
    'merges.txt',
    'spiece.model',
    'tokenizer.model',
    'sentencepiece.bpe.model',
    'chat_template.jinja',
)


def copy(source: Path, target: Path, names=CONFIGS + TOKENIZER) -> list[str]:
    """The names of those files in `source`, now in `target` too."""
    found = [name for name in names if (source / name).is_file()]
    for name in found:
        target.mkdir(exist_ok=True)
        shutil.copyfile(source / name, target / name)
    return found


def check(folder: Path, model) -> None:
    """ConfigError if the folder's tokenizer has ids that the model's table lacks, or no pieces."""
    size = _size(folder)
    if size is not None and size > model.rows:
        raise ConfigError(
            f'{folder}: its tokenizer has {size} ids, but the embedding has {model.rows} rows; '
            'restore the tokenizer files of this model'
        )
    if (folder / 'tokenizer_config.json').is_file() and not _pieces(folder):
        kind = files.read_json(folder / 'tokenizer_config.json').get('tokenizer_class')
        if kind != 'ByT5Tokenizer':
            known = ', '.join(PIECES)
            raise ConfigError(
                f'{folder}: has tokenizer_config.json, but none of {known}; copy the missing file'
            )


def _pieces(folder: Path) -> list[str]:
    return [name for name in PIECES if (folder / name).is_file()]


def _size(folder: Path) -> int | None:
    """How many ids the tokenizer's pieces have, None if that is not in a file of text."""
    name = next(iter(_pieces(folder)), None)
    if name == 'vocab.txt':
        return len((folder / name).read_text(encoding='utf-8').splitlines())
    if name == 'vocab.json':
        return len(files.read_json(folder / name))
    if name != 'tokenizer.json':
        return None
    model = files.read_json(folder / name).get('model')
    pieces = model.get('vocab') if isinstance(model, dict) else None
    return len(pieces) if isinstance(pieces, dict | list) else None


def told(names: list[str]) -> str:
    """A line that says which tokenizer files there are."""
    names = [name for name in names if name in TOKENIZER]
    return f'tokenizer files: {", ".join(names) or "none"}'


def write(experiment, folder: Path) -> list[str]:
    """Writes the vocabulary of the experiment's first stream; the names of the files.

    Raises:
      ConfigError: the data side is not installed, the mixture is not registered, or its vocabulary
        is of a kind without files.
    """
    from t5x_lite.data import seqio_source

    seqio = seqio_source.import_seqio()
    stream = next(iter(experiment.streams.values()))
    vocabulary = seqio_source.text_vocabulary(stream, experiment.imports)
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
    return [name for name in TOKENIZER if (folder / name).is_file()]


def _config(folder: Path, **fields) -> None:
    text = json.dumps(fields, indent=2, sort_keys=True) + '\n'
    (folder / 'tokenizer_config.json').write_text(text, encoding='utf-8')
