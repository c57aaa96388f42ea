"""Text corpora shipped with the package: where their files are and how to read them."""
# SPDX-License-Identifier: Apache-2.0

import json
import lzma
from collections.abc import Iterator
from pathlib import Path

from t5x_lite.errors import ConfigError

CORPUS_EN_PD = Path(__file__).parent / 'corpus_en_pd'
SPLITS = ('train', 'validation', 'test')

_FORM = 'need UTF-8, one JSON object with a "text" per line; restore the file or name another'


def split_path(split: str) -> Path:
    """The compressed file of one of `SPLITS`."""
    return CORPUS_EN_PD / f'{split}.jsonl.xz'


def documents(path: str | Path) -> Iterator[dict[str, str]]:
    """The documents of a JSON-lines file, plain or `.xz`: one mapping with a `text` each.

    Raises:
      ConfigError: the file is missing, unreadable, damaged, not of this form, or empty.
    """
    path = Path(path)
    count = 0
    try:
        with (lzma.open if path.suffix == '.xz' else open)(path, 'rt', encoding='utf-8') as lines:
            for line in lines:
                count += 1
                yield _document(line)
    except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
        raise ConfigError(f'corpus file {path}: line {count}: {error}; {_FORM}') from error
    if not count:
        raise ConfigError(f'corpus file {path}: holds no documents; {_FORM}')


def _document(line: str) -> dict[str, str]:
    document = json.loads(line)
    if not isinstance(document, dict) or not isinstance(document.get('text'), str):
        raise ConfigError('no "text"')
    return document
