"""Several texts in one row, `[CLS] a [SEP] b [SEP]` or `a EOS b EOS`, cut to fit longest first."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from t5x_lite.errors import ConfigError, nearest

MARKS = {'cls': ('cls', 'sep'), 'eos': ('eos',)}
"""How texts are marked off, and the ids that the vocabulary must have for it."""


def check_marks(objective: str, marks: str) -> None:
    """ConfigError unless there is such a way to mark texts off."""
    if marks not in MARKS:
        raise ConfigError(f'{objective}: marks={marks!r} is unknown; {nearest(marks, MARKS)}')


class Framed(NamedTuple):
    """A row of L places: `tokens` and `types` [L], and where each text's tokens begin.

    `types` are 0 up to the marks after the first text, then 1.
    """

    tokens: np.ndarray
    types: np.ndarray
    used: int
    begins: tuple[int, ...]

    def arrays(self, stack: str) -> dict[str, np.ndarray]:
        """The tokens, segments and positions of a row for a stack, 'encoder' or 'decoder'."""
        index_L = np.arange(len(self.tokens), dtype=np.int32)
        used_L = (index_L < self.used).astype(np.int32)
        return {
            f'{stack}_input_tokens': self.tokens,
            f'{stack}_segment_ids': used_L,
            f'{stack}_positions': index_L * used_L,
        }


def stack_spec(stack: str, length: int) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shapes and types of `Framed.arrays`."""
    names = ('input_tokens', 'segment_ids', 'positions')
    return {f'{stack}_{name}': ((length,), np.int32) for name in names}


def longest_first(lengths: Sequence[int], room: int) -> list[int]:
    """How many tokens of each text are kept so that they are `room` in all.

    As if one were taken off the longest text, of several the last one, until they fit (Devlin et
    al. 2018).
    """
    left, kept = room, list(lengths)
    order = sorted(range(len(kept)), key=lambda i: kept[i])
    for done, i in enumerate(order):
        share, more = divmod(left, len(order) - done)
        if kept[i] > share:
            above = sorted(order[done:])
            for place, j in enumerate(above):
                kept[j] = min(kept[j], share + (place < more))
            break
        left -= kept[i]
    return kept


def marks_of(texts: int, marks: str, between: int = 1) -> int:
    """How many places the marks of so many texts take; `between` marks stand between two."""
    return (marks == 'cls') + between * (texts - 1) + 1


def frame(
    texts: Sequence[np.ndarray], length: int, vocabulary, marks: str = 'cls', between: int = 1
) -> Framed:
    """The texts in a row of `length` places, cut longest first; the marks are always whole."""
    end = vocabulary.sep if marks == 'cls' else vocabulary.eos
    kept = longest_first([len(t) for t in texts], length - marks_of(len(texts), marks, between))
    row, types, begins = ([vocabulary.cls] if marks == 'cls' else []), [], []
    types = [0] * len(row)
    for i, (text, count) in enumerate(zip(texts, kept, strict=True)):
        if i:
            extra = [end] * (between - 1)
            row, types = row + extra, types + [min(i - 1, 1)] * len(extra)
        begins.append(len(row))
        row += [*text[:count].tolist(), end]
        types += [min(i, 1)] * (count + 1)
    pad = [0] * (length - len(row))
    as_row = lambda x: np.array(x + pad, np.int32)
    return Framed(as_row(row), as_row(types), len(row), tuple(begins))
