"""Rows of several kinds from one line of text: each kind has its own length and an exact share."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from t5x_lite.data import packing
from t5x_lite.data.randomness import uniforms

ORDER = 1  # tells the numbers that order a cycle from what else is drawn with a cutter's seed


class MixedRows(NamedTuple):
    """Rows of tokens, int32 [B, L] padded with 0 to the longest kind's length.

    `lengths` [B] counts each row's tokens, `kinds` [B] says which kind it is.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    kinds: np.ndarray


class ConcatenateByKind(packing.Concatenate):
    """Documents joined without marks and cut to rows of several kinds.

    In each cycle of sum(shares) rows there are `shares[k]` rows of kind k, in an order drawn anew:
    the kind of a row is a function of the seed and its number. Only the last row of the data may
    be shorter than its kind's length.

    Args:
      sizes: tokens of a row of each kind.
      shares: rows of each kind in a cycle.
      seed: integers of 0 or more.
      min_tokens: a last row of fewer is dropped.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        shares: Sequence[int],
        seed: Sequence[int] = (),
        min_tokens: int = 2,
    ):
        super().__init__(max(sizes), eos=None, separate=False, min_tokens=min_tokens)
        self._sizes = np.asarray(sizes)
        self._cycle = np.repeat(np.arange(len(shares)), shares)
        self._seed = (*seed, ORDER)
        self._row = 0  # of the next row to take
        self._ends = np.zeros(0, np.int64)  # where the coming rows end in the line of tokens

    def ready(self) -> int:
        rows, rest = self._whole()
        return rows + (self._ended and rest >= self._min_tokens)

    def flush(self) -> None:
        self._ended = True
        self.dropped += 0 < self._whole()[1] < self._min_tokens

    def take(self, count: int) -> MixedRows:
        kinds_B = self._kinds(count)
        lengths_B = self._sizes[kinds_B]
        if count:  # the last row of the data may be short
            lengths_B[-1] -= max(0, int(lengths_B.sum()) - self._tokens.size)
        used_BxL = np.arange(self._length) < lengths_B[:, None]
        tokens_BxL = np.zeros(used_BxL.shape, np.int32)
        tokens_BxL[used_BxL] = self._tokens.take(int(lengths_B.sum()))
        self._marks.take(int(lengths_B.sum()))
        self._row += count
        self._ends = self._ends[:0]
        return MixedRows(tokens_BxL, lengths_B, kinds_B)

    def state(self) -> dict[str, np.ndarray]:
        return {**super().state(), 'row': np.int64(self._row)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        super().restore(state)
        self._row = int(state['row'])
        self._ends = self._ends[:0]

    def _whole(self) -> tuple[int, int]:
        """How many rows of full length wait in line, and how many tokens after them."""
        size = self._tokens.size
        if not self._ends.size or self._ends[-1] <= size:  # twice as far as needed: asked often
            enough = 2 * (size // int(self._sizes.min()) + len(self._cycle))
            self._ends = np.cumsum(self._sizes[self._kinds(enough)])
        rows = int(np.searchsorted(self._ends, size, side='right'))
        return rows, size - (int(self._ends[rows - 1]) if rows else 0)

    def _kinds(self, count: int) -> np.ndarray:
        """The kinds of the next rows, [count]."""
        cycle = len(self._cycle)
        first, passed = divmod(self._row, cycle)
        numbers = uniforms(self._seed, first, -(-(passed + count) // cycle), cycle)
        order = np.argsort(numbers, axis=1, kind='stable')
        return self._cycle[order].ravel()[passed : passed + count]
