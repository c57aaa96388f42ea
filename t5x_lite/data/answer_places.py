"""Where in a text's tokens an answer stands that is known by its characters."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from t5x_lite.data.vocabularies import VocabularyInfo


def bytes_of(text: str, begin: int, end: int) -> tuple[int, int]:
    """Characters [begin, end) of a text, as bytes of UTF-8."""
    first = len(text[:begin].encode())
    return first, first + len(text[begin:end].encode())


def locate(
    text: str, tokens: np.ndarray, vocabulary: VocabularyInfo, begin: int, end: int
) -> tuple[int, int] | None:
    """The tokens [first, last) that hold some of the characters [begin, end); None if none does.

    Also None where it is not known which bytes tokens stand for: the vocabulary changes text (lower
    case), or has no piece for some of it.
    """
    spans = token_bytes(text, tokens, vocabulary)
    if spans is None:
        return None
    begins, ends = spans
    low, high = bytes_of(text, begin, end)
    inside = np.flatnonzero((ends > low) & (begins < high) & (ends > begins))
    return (int(inside[0]), int(inside[-1]) + 1) if len(inside) else None


def token_bytes(
    text: str, tokens: np.ndarray, vocabulary: VocabularyInfo
) -> tuple[np.ndarray, np.ndarray] | None:
    """For each token the bytes [begin, end) of the text that it stands for, without white space.

    Pieces are looked for in the text one after the other, so that white space between them may be
    theirs or nobody's (WordPiece). Letters are compared without their case.
    """
    data, place = text.encode().lower(), 0
    begins, ends = np.zeros((2, len(tokens)), np.int64)
    for i, token in enumerate(np.asarray(tokens).tolist()):
        begins[i] = ends[i] = place
        if vocabulary.special[token]:
            if token == vocabulary.unk:
                return None
            continue
        piece = _bytes(vocabulary, token)
        while place < len(data) and data[place : place + 1].isspace() and not piece[:1].isspace():
            place += 1
        if not data.startswith(piece, place):
            return None
        begins[i], ends[i] = place, place + len(piece)
        place += len(piece)
    return begins, ends


def _bytes(vocabulary: VocabularyInfo, token: int) -> bytes:
    """What a piece has of the text, in lower case; white space at its begin left out."""
    piece = vocabulary.pieces[token].removeprefix('##')
    if len(piece) == 6 and piece.startswith('<0x') and piece.endswith('>'):
        return bytes([int(piece[3:5], 16)]).lower()
    return piece.replace('▁', ' ').lstrip(' ').encode().lower()
