"""Text corpora shipped with the package: where their files are and how to read them."""
# SPDX-License-Identifier: Apache-2.0

import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from t5x_lite.errors import ConfigError

CORPUS_EN_PD = Path(__file__).parent / 'corpus_en_pd'
WIKI_TOPICS = Path(__file__).parent / 'wiki_topics'
GNOME_HELP_EN_DE = Path(__file__).parent / 'gnome_help_en_de'
GNOME_HELP_EN_ZH = Path(__file__).parent / 'gnome_help_en_zh'
SPLITS = ('train', 'validation', 'test')

_FORM = 'need UTF-8, one JSON object with a "text" per line; restore the file or name another'
_TEXT_FORM = 'need UTF-8, one document per line; restore the file or name another'

T = TypeVar('T')


def split_path(split: str, folder: Path | None = None) -> Path:
    """The compressed file of one of `SPLITS`, of CORPUS_EN_PD or another corpus's folder."""
    return (folder or CORPUS_EN_PD) / f'{split}.jsonl.xz'


def documents(path: str | Path) -> Iterator[dict[str, str]]:
    """The documents of a JSON-lines file, plain or `.xz`: one mapping with a `text` each.

    Raises:
      ConfigError: the file is missing, unreadable, damaged, not of this form, or empty.
    """
    return _lines(Path(path), _document, _FORM)


def texts(path: str | Path) -> Iterator[str]:
    """The texts of `documents`, or the lines, a document each, of a `.txt` or `.txt.xz` file.

    Raises:
      ConfigError: as `documents`.
    """
    path = Path(path)
    if path.name.removesuffix('.xz').endswith('.txt'):
        return _lines(path, lambda line: line.rstrip('\n'), _TEXT_FORM)
    return (document['text'] for document in documents(path))


def _lines(path: Path, read: Callable[[str], T], form: str) -> Iterator[T]:
    count = 0
    try:
        with (lzma.open if path.suffix == '.xz' else open)(path, 'rt', encoding='utf-8') as lines:
            for line in lines:
                count += 1
                yield read(line)
    except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
        raise ConfigError(f'corpus file {path}: line {count}: {error}; {form}') from error
    if not count:
        raise ConfigError(f'corpus file {path}: holds no documents; {form}')


def _document(line: str) -> dict[str, str]:
    document = json.loads(line)
    if not isinstance(document, dict) or not isinstance(document.get('text'), str):
        raise ConfigError('no "text"')
    return document
