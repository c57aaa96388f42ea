"""Factorisation orders: spans of words to predict, in blocks of a row, and in what order."""
# SPDX-License-Identifier: Apache-2.0

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from t5x_lite.data import noise

# B rows, L tokens of a row, T targets of a row; S strips (a block of a row each), P tokens of a
# strip, M spans of a strip at most.


class Targets(NamedTuple):
    """The tokens of each row that are predicted, [B, T] each, in the order of the text.

    `used` says which of the T there are; `ranks` counts 1, 2, .. in the factorisation order.
    """

    places: np.ndarray
    used: np.ndarray
    ranks: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Factorisation:
    """How rows of up to `length` tokens are predicted in part: XLNet (Yang et al. 2019).

    Of a row of n tokens max(1, n // group) are predicted, shared among its blocks of `perm_size`
    tokens by their length (XLNet: 85 of 512, 43 and 42 in the halves). In each block spans of 1 to
    `longest` words, n words with probability in proportion to 1/n, are drawn from left to right:
    the span stands in a context of group * n tokens more, at a uniform place, from the next word on
    (`_sample_mask` in zihangdai/xlnet:data_utils.py). Spans beyond the budget are dropped at random
    (there: the last ones), the last one kept is cut; what spans leave of the budget goes to single
    tokens. With `whole_words=False` a span of n words is n tokens from a word's start, as in that
    code.

    Permutations stay within blocks, each uniform: all ranks of a block come before the next one's.
    """

    length: int
    perm_size: int | None = 256
    group: int = 6
    longest: int = 5
    whole_words: bool = True

    @property
    def width(self) -> int:
        """Tokens of a block."""
        return self.length if self.perm_size is None else min(self.perm_size, self.length)

    @property
    def blocks(self) -> int:
        return -(-self.length // self.width)

    @property
    def spans(self) -> int:
        """Spans of a block at most: each takes a context of `group` and a token."""
        return self.width // (self.group + 1) + 1

    @property
    def targets(self) -> int:
        """Targets of a full row, T."""
        return max(1, self.length // self.group)

    @property
    def draws(self) -> int:
        """Numbers of a row: for spans, for which of them stay, for single tokens, for ranks."""
        return 2 * self.blocks * self.spans + self.length + self.targets

    def draw(self, open_BxL, starts_BxL, lengths_B, uniforms) -> Targets:
        """Targets of rows of `length` tokens, of which `lengths_B` are used.

        Args:
          open_BxL: bool; what may be predicted.
          starts_BxL: bool; where words begin. What is not open should be a word of its own.
          uniforms: [B, draws].
        """
        spans = self.blocks * self.spans
        cuts = np.cumsum([spans, spans, self.length])
        for_spans, for_budget, for_tokens, for_ranks = np.split(uniforms, cuts, axis=1)
        strips = lambda x_BxN: x_BxN.reshape(-1, self.spans)
        index_L = np.arange(self.length)
        begins_SxM, ends_SxM = walk(
            self._strips(starts_BxL & (index_L < lengths_B[:, None]), False),
            np.diff(self._ends(lengths_B), axis=1).ravel(),
            *span_sizes(strips(for_spans), self.longest),
            group=self.group,
            whole_words=self.whole_words,
        )
        scores_SxP = span_scores(
            begins_SxM, ends_SxM, strips(for_budget), self._strips(for_tokens, 2.0)
        )
        open_SxP = self._strips(open_BxL, False)
        counts_S = np.minimum(self.budgets(lengths_B).ravel(), open_SxP.sum(1))
        chosen_SxP = noise.choose(np.where(open_SxP, scores_SxP, 2.0), counts_S)
        chosen_BxL = chosen_SxP.reshape(len(lengths_B), -1)[:, : self.length]
        return ranked(chosen_BxL, self.width, for_ranks)

    def budgets(self, lengths_B: np.ndarray) -> np.ndarray:
        """How many tokens of each block are predicted, [B, blocks]."""
        counts_Bx1 = np.maximum(1, lengths_B // self.group)[:, None]
        upto = -(-counts_Bx1 * self._ends(lengths_B) // np.maximum(lengths_B, 1)[:, None])
        return np.diff(upto, axis=1)

    def _ends(self, lengths_B: np.ndarray) -> np.ndarray:
        """0, and where each block ends in rows of so many tokens, [B, blocks + 1]."""
        return np.minimum(self.width * np.arange(self.blocks + 1), lengths_B[:, None])

    def _strips(self, x_BxL: np.ndarray, fill) -> np.ndarray:
        """Blocks of rows [B, L] one below the other, [S, P], the last of a row filled up."""
        missing = self.blocks * self.width - self.length
        if missing:
            x_BxL = np.pad(x_BxL, ((0, 0), (0, missing)), constant_values=fill)
        return x_BxL.reshape(-1, self.width)


def span_sizes(uniforms, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Sizes 1..longest, n with probability in proportion to 1/n, and new uniform numbers."""
    shares = 1 / np.arange(1, longest + 1)
    ends = np.cumsum(shares / shares.sum())
    ends[-1] = 1.0
    index = np.searchsorted(ends, uniforms, side='right')
    begins = np.append(0.0, ends)
    return index + 1, (uniforms - begins[index]) / (ends - begins[:-1])[index]


def walk(
    starts_SxP: np.ndarray,
    lengths_S: np.ndarray,
    sizes_SxM: np.ndarray,
    uniforms_SxM: np.ndarray,
    *,
    group: int,
    whole_words: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Where spans begin and end (one beyond their last token), [S, M] each; P for no span.

    Each span is followed by at least one token that is in none.

    Args:
      starts_SxP: bool; where words begin.
      sizes_SxM, uniforms_SxM: words of each span, and where in its context it stands.
    """
    (strips, width), (_, most) = starts_SxP.shape, sizes_SxM.shape
    s = np.arange(strips)
    before_SxP = np.zeros((strips, width + 1), np.int64)  # words that begin before a token
    np.cumsum(starts_SxP, axis=1, out=before_SxP[:, 1:])
    word_SxP = np.full((strips, width + 2 + sizes_SxM.max(initial=0)), width + 1)  # begins of words
    rows, places = np.nonzero(starts_SxP)
    word_SxP[rows, before_SxP[rows, places]] = places
    word_SxP[s, before_SxP[:, -1]] = lengths_S
    sizes_MxS, contexts_MxS = sizes_SxM.T, group * sizes_SxM.T
    left_MxS = (uniforms_SxM.T * contexts_MxS).astype(np.int64)
    right_MxS = contexts_MxS - left_MxS
    spans_Mx2xS = np.full((most, 2, strips), width)
    here_S = np.zeros(strips, np.int64)
    for m in range(most):
        first_S = before_SxP[s, np.minimum(here_S + left_MxS[m], width)]
        begin_S = word_SxP[s, first_S]
        end_S = word_SxP[s, first_S + sizes_MxS[m]] if whole_words else begin_S + sizes_MxS[m]
        fits_S = (end_S <= lengths_S) & (begin_S < lengths_S)
        if not fits_S.any():
            break
        spans_Mx2xS[m] = np.where(fits_S, (begin_S, end_S), width)
        here_S = np.where(fits_S, end_S + right_MxS[m], width)
    return spans_Mx2xS[:, 0].T, spans_Mx2xS[:, 1].T


def span_scores(begins_SxM, ends_SxM, priorities_SxM, scores_SxP) -> np.ndarray:
    """Scores [S, P] of which the lowest are to be chosen: all of a span, then the next span.

    Tokens in no span keep `scores_SxP`, numbers in [0, 1); spans come before them, by priority.
    """
    strips, width = scores_SxP.shape
    s = np.arange(strips)[:, None]
    steps_SxP = np.zeros((strips, width + 1))
    steps_SxP[s, begins_SxM] = priorities_SxM - 2.0
    steps_SxP[s, ends_SxM] = 2.0 - priorities_SxM
    level_SxP = np.cumsum(steps_SxP[:, :-1], axis=1)
    left_first_P = 1e-6 * np.arange(width) / width
    return np.where(level_SxP < -0.5, level_SxP + left_first_P, scores_SxP)


def ranked(chosen_BxL: np.ndarray, width: int, uniforms_BxT: np.ndarray) -> Targets:
    """The chosen tokens, at most T of a row, in a uniform order within each block of `width`."""
    slots = np.arange(uniforms_BxT.shape[1])
    used_BxT = slots < chosen_BxL.sum(1)[:, None]
    places_BxT = np.zeros(used_BxT.shape, np.int64)
    places_BxT[used_BxT] = np.nonzero(chosen_BxL)[1]
    keys_BxT = np.where(used_BxT, places_BxT // width + uniforms_BxT, np.inf)
    ranks_BxT = np.empty_like(places_BxT)
    np.put_along_axis(ranks_BxT, np.argsort(keys_BxT, axis=1), slots[None] + 1, axis=1)
    return Targets(places_BxT, used_BxT, ranks_BxT * used_BxT)
