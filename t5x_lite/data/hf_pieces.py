"""What each id of a Hugging Face tokenizer stands for: piece, bytes of text, starts of words."""
# SPDX-License-Identifier: Apache-2.0

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_BYTE = re.compile('<0x([0-9A-F]{2})>')
_ESCAPED = re.compile('[\udc80-\udcff]')
_UNUSED = re.compile(r'\[unused[0-9]+\]')


class Piece(NamedTuple):
    """One id: its piece ('▁' a space, '<0xE2>' a lone byte), its width in bytes of text."""

    piece: str
    width: int
    starts_word: bool
    control: bool = False


def pieces(tokenizer) -> list[Piece]:
    """The pieces of a `tokenizers.Tokenizer` in the order of their ids; control where none is.

    Widths are exact for byte-level vocabularies. WordPiece drops white space: '##x' is as wide as
    x, one of punctuation alone as wide as itself, and any other has a space before it. That is
    an estimate, as are widths after a normalizer that changes the text.
    """
    state = json.loads(tokenizer.to_str())
    read = _reader(state)
    vocabulary = {id: token for token, id in tokenizer.get_vocab(with_added_tokens=True).items()}
    added = tokenizer.get_added_tokens_decoder()
    out = []
    for id in range(max(vocabulary) + 1):
        token = vocabulary.get(id)
        if token is None:
            out.append(Piece('', 0, False, control=True))
        elif id in added:
            starts = token[:1].isspace()
            shown = token if added[id].special else token.replace(' ', '▁')
            out.append(Piece(shown, len(token.encode()), starts, control=added[id].special))
        else:
            out.append(read(token)._replace(control=_UNUSED.fullmatch(token) is not None))
    return out


def _reader(state: dict[str, Any]) -> Callable[[str], Piece]:
    """How ordinary tokens are read, by what the tokenizer's own decoder does with them."""
    decoders = {part['type']: part for part in _flat(state['decoder'])}
    model = state['model']
    if 'ByteLevel' in decoders:
        return _byte_level
    if 'BPEDecoder' in decoders:
        return lambda token: _suffixed(token, decoders['BPEDecoder']['suffix'])
    if 'Metaspace' in decoders or 'Replace' in decoders:
        return lambda token: _metaspace(token, bool(model.get('byte_fallback')))
    prefix = decoders.get('WordPiece', {}).get('prefix') or model.get('continuing_subword_prefix')
    return lambda token: _word_piece(token, prefix)


def _flat(decoder: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if decoder and decoder['type'] == 'Sequence':
        for part in decoder['decoders']:
            yield from _flat(part)
    elif decoder:
        yield decoder


def byte_alphabet() -> dict[str, int]:
    """The 256 characters that stand for bytes in GPT-2's vocabulary (Radford et al. 2019)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): b for i, b in enumerate(hidden)}


_ALPHABET = byte_alphabet()


def _byte_level(token: str) -> Piece:
    data = b''.join(
        bytes([_ALPHABET[char]]) if char in _ALPHABET else char.encode() for char in token
    )
    text = data.decode(errors='surrogateescape')
    shown = _ESCAPED.sub(lambda m: f'<0x{ord(m[0]) - 0xDC00:02X}>', text)
    return Piece(shown.replace(' ', '▁'), len(data), text[:1].isspace())


def _metaspace(token: str, byte_fallback: bool) -> Piece:
    if byte_fallback and _BYTE.fullmatch(token):
        return Piece(token, 1, False)
    return Piece(token, len(token.replace('▁', ' ').encode()), token.startswith('▁'))


def _suffixed(token: str, suffix: str) -> Piece:
    """A word's last piece has the suffix; where a word begins, a piece does not say."""
    word = token.removesuffix(suffix)
    shown = word + '▁' if word != token else word
    return Piece(shown, len(shown.replace('▁', ' ').encode()), False)


def _word_piece(token: str, prefix: str | None) -> Piece:
    if prefix and token.startswith(prefix) and token != prefix:
        rest = token[len(prefix) :]
        return Piece(rest, len(rest.encode()), False)
    if not any(char.isalnum() for char in token):
        return Piece(token, len(token.encode()), True)
    return Piece('▁' + token, len(token.encode()) + 1, True)
