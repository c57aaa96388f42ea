"""The files of a Hugging Face tokenizer, read and checked: pieces, merges, names, settings."""
# SPDX-License-Identifier: Apache-2.0

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from t5x_lite.data.vocabularies import NAMES
from t5x_lite.errors import ConfigError

ROLES = {
    'bos': ('<s>', '<bos>', '[BOS]', '<|begin_of_text|>', '<|endoftext|>'),
    'eos': ('</s>', '<eos>', '[EOS]', '<|end_of_text|>', '<|endoftext|>'),
    'unk': ('[UNK]', '<unk>'),
    'sep': NAMES['sep'],
    'pad': ('[PAD]', '<pad>', '<|pad|>', '<|padding|>'),
    'cls': NAMES['cls'],
    'mask': NAMES['mask'],
}
"""What special tokens are called where no file says it, in the order transformers adds them."""


class Settings(NamedTuple):
    """What a folder says about its tokenizer beside the pieces.

    `names` has the roles that it names, None where it says there is none. `added` are tokens that
    the vocabulary may lack, with their ids if known and how they are matched in text.
    """

    names: Mapping[str, str | None]
    added: tuple[tuple[int | None, Mapping[str, Any]], ...]
    options: Mapping[str, Any]


def library():
    """The tokenizers library.

    Raises:
      ConfigError: it is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise ConfigError(
            f"vocabulary: tokenizers cannot be imported ({error}); pip install 't5x_lite[hf]'"
        ) from error
    return tokenizers


def text(path: str | Path) -> str:
    """The text of a file.

    Raises:
      ConfigError: it is missing or not UTF-8.
    """
    try:
        return Path(path).read_text(encoding='utf-8')
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f'vocabulary file {path}: cannot be read ({error}); restore it or name another'
        ) from error


def mapping(path: str | Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
      ConfigError: it is missing or holds something else.
    """
    try:
        found = json.loads(text(path))
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f'vocabulary file {path}: must be JSON, but {error}; restore it or name another'
        ) from error
    if not isinstance(found, dict):
        raise ConfigError(
            f'vocabulary file {path}: must be a JSON object, but is a {type(found).__name__}; '
            'restore it or name another'
        )
    return found


def word_pieces(path: str | Path, unk: str) -> dict[str, int]:
    """The pieces of a `vocab.txt`, one a line, with their ids.

    Raises:
      ConfigError: the file is missing or empty, names a piece twice, or has no `unk`.
    """
    lines = text(path).removesuffix('\n').split('\n')
    ids: dict[str, int] = {}
    for line, piece in enumerate(lines):
        if piece in ids:
            raise ConfigError(
                f'vocabulary file {path}: line {line + 1}: {piece!r} is there already, on line '
                f'{ids[piece] + 1}; each piece must be there once: restore the file'
            )
        ids[piece] = line
    if unk not in ids:
        raise ConfigError(
            f'vocabulary file {path}: {len(ids)} pieces, but {unk} must be one of them; '
            'add it, or name the token that stands for it as unk_token in tokenizer_config.json'
        )
    return ids


def byte_pieces(path: str | Path) -> dict[str, int]:
    """The pieces of a `vocab.json` with their ids.

    Raises:
      ConfigError: the file is missing or is no mapping of pieces to ids.
    """
    ids = mapping(path)
    if not ids or not all(type(id) is int and id >= 0 for id in ids.values()):
        raise ConfigError(
            f'vocabulary file {path}: must map each piece to its id, a number of 0 or more; '
            'restore it or name another'
        )
    if len(set(ids.values())) < len(ids):
        raise ConfigError(
            f'vocabulary file {path}: two pieces have one id; restore it or name another'
        )
    return ids


def merges(path: str | Path) -> list[tuple[str, str]]:
    """The pairs of a `merges.txt`, in order.

    Raises:
      ConfigError: the file is missing, or a line is no pair.
    """
    pairs = []
    for number, line in enumerate(text(path).split('\n'), 1):
        if line == '' or (number == 1 and line.startswith('#version')):
            continue
        pair = tuple(line.split(' '))
        if len(pair) != 2:
            raise ConfigError(
                f'vocabulary file {path}: line {number}: {line!r} must be two pieces with a space '
                'between them; restore the file or name another'
            )
        pairs.append(pair)
    return pairs


def settings(folder: str | Path) -> Settings:
    """What tokenizer_config.json, special_tokens_map.json and added_tokens.json say, if there.

    Raises:
      ConfigError: one of them is no JSON object, or lists tokens in another form.
    """
    config, special, added = (
        mapping(path) if (path := Path(folder) / name).exists() else {}
        for name in ('tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json')
    )
    try:
        return _settings(config, special, added)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f'vocabulary folder {folder}: tokens in tokenizer_config.json, special_tokens_map.json '
            f'and added_tokens.json must have the form transformers writes, but {error!r}; '
            'restore these files'
        ) from error


def _settings(config: Mapping, special: Mapping, added: Mapping) -> Settings:
    said = special | config
    names = {role: _content(said[f'{role}_token']) for role in ROLES if f'{role}_token' in said}
    listed = {int(id): token for id, token in config.get('added_tokens_decoder', {}).items()}
    listed |= {id: {'content': name} for name, id in added.items() if id not in listed}
    known = {token['content'] for token in listed.values()}
    more = said.get('additional_special_tokens') or said.get('extra_special_tokens') or []
    more = [token if isinstance(token, dict) else {'content': token} for token in more]
    more += [said[f'{r}_token'] for r in names if isinstance(said[f'{r}_token'], dict)]
    unlisted = [(None, token) for token in more if token['content'] not in known]
    return Settings(names, (*sorted(listed.items()), *unlisted), config)


def _content(token: str | Mapping[str, Any] | None) -> str | None:
    return token['content'] if isinstance(token, dict) else token


def roles(said: Mapping[str, str | None], tokens) -> dict[str, str | None]:
    """The name of every role's token: as said, else one of the known names that is in `tokens`.

    RoBERTa's kind has a `<mask>` and no `[CLS]`: `<s>` opens a row and `</s>` ends it.
    """
    found = {
        role: said.get(role, next((name for name in names if name in tokens), None))
        for role, names in ROLES.items()
    }
    if found['mask'] is not None and {'<s>', '</s>'} <= set(tokens):
        for role, name in (('cls', '<s>'), ('sep', '</s>')):
            if found[role] is None and role not in said:
                found[role] = name
    return found
