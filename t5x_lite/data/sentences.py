"""Sentences of tokenized documents, found by their pieces without decoding."""
# SPDX-License-Identifier: Apache-2.0

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

ABBREVIATIONS = frozenset(
    'Mr Mrs Ms Messrs Dr Prof Rev Hon St Sr Jr Gen Col Maj Capt Lt Sgt Gov Sen Rep Esq vs'.split()
)
_OPENERS = '"\'“‘«([{'
_CLOSERS = '"\'”’»)]}'
_BYTE = re.compile('<0x([0-7][0-9A-F])>')


class Marks(NamedTuple):
    """What each id says about sentences; bool [V] each."""

    newline: np.ndarray
    final: np.ndarray  # ends in . ! ? and perhaps closing quotes or brackets
    closing: np.ndarray  # is nothing but closing quotes or brackets
    opens: np.ndarray  # begins a word with anything but a small letter
    stop: np.ndarray  # is a full stop and perhaps closing quotes or brackets
    shortened: np.ndarray  # an abbreviation or initial, when a full stop follows


def marks(vocabulary) -> Marks:
    """The table for a `VocabularyInfo`; '▁' begins a word, special ids mean nothing.

    Without capitals in the vocabulary any word may open a sentence. Where a full stop is a word of
    its own (WordPiece), '3.5' is three words, and no number opens one.
    """
    pieces = [_BYTE.sub(lambda m: chr(int(m[1], 16)), piece) for piece in vocabulary.pieces]
    text = ~vocabulary.special
    cased = any(pieces[i] != pieces[i].lower() for i in np.flatnonzero(text))
    apart = any(pieces[i] == '.' for i in np.flatnonzero(vocabulary.starts_word))

    def where(test: Callable[[str], bool]) -> np.ndarray:
        return np.fromiter((test(piece) for piece in pieces), bool, len(pieces)) & text

    def opens(piece: str) -> bool:
        first = piece[1:2]
        small = first.islower() if cased else not (first.isalpha() or first in _OPENERS)
        return piece.startswith('▁') and not small and not (apart and first.isdigit())

    def short(piece: str) -> bool:
        return _short(piece if cased else piece.title())

    return Marks(
        newline=where(lambda p: '\n' in p),
        final=where(lambda p: p.rstrip(_CLOSERS).endswith(('.', '!', '?', '…')) and not short(p)),
        closing=where(lambda p: p != '' and not p.strip(_CLOSERS)),
        opens=where(opens),
        stop=where(lambda p: p.rstrip(_CLOSERS) == '.'),
        shortened=where(lambda p: short(p + '.')),
    )


def _short(piece: str) -> bool:
    """Whether it is an abbreviation with its full stop, or an initial such as 'J.' but not 'I.'."""
    word = piece.lstrip('▁')
    return word.endswith('.') and (
        word[:-1] in ABBREVIATIONS or (len(word) == 2 and word[0].isupper() and word[0] != 'I')
    )


def boundaries(tokens: np.ndarray, marks: Marks) -> np.ndarray:
    """True where a sentence starts, bool [n]: after a final mark or a newline, and at the start."""
    newline = marks.newline[tokens]
    final = marks.final[tokens]
    final[1:] &= ~(marks.stop[tokens[1:]] & marks.shortened[tokens[:-1]])
    index = np.where(marks.closing[tokens], 0, np.arange(len(tokens)))
    ended = final[np.maximum.accumulate(index)]  # seen through closing quotes and brackets
    starts = np.ones(len(tokens), bool)
    starts[1:] = newline[:-1] | (ended[:-1] & marks.opens[tokens[1:]])
    return starts & ~newline


def split(tokens: np.ndarray, marks: Marks, min_tokens: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """The document's tokens without newlines, and the lengths of its sentences in order.

    A sentence of fewer than `min_tokens` goes with the one after it, the last one with the one
    before it; a document of fewer has no sentence.
    """
    starts = boundaries(tokens, marks)
    text = ~marks.newline[tokens]
    tokens, begins = tokens[text], np.flatnonzero(starts[text])
    if len(tokens) < min_tokens:
        return tokens[:0], begins[:0]
    short = np.diff(begins, append=len(tokens)) < min_tokens
    begins = begins[~np.concatenate([[False], short[:-1]])]
    if len(begins) > 1 and len(tokens) - begins[-1] < min_tokens:
        begins = begins[:-1]
    return tokens, np.diff(begins, append=len(tokens))
