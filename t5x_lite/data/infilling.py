"""Spans of random lengths: how many, where, and rows in which each is one mask (BART, ALBERT)."""
# SPDX-License-Identifier: Apache-2.0

import functools
import math
from typing import NamedTuple

import numpy as np

from t5x_lite.data import packing

HOLE = -1  # a mask that noise has made, until it is told what to put there

# B rows, L tokens of a row, S spans of a row, W words (or tokens) of a row.


class Spans(NamedTuple):
    """Lengths of each row's spans, and which of the S there are; both [B, S]."""

    lengths: np.ndarray
    used: np.ndarray


@functools.cache
def poisson(mean: float) -> np.ndarray:
    """P(length <= k) of Poisson's distribution for k = 0, 1, .., up to where it is 1."""
    most = int(mean + 12 * math.sqrt(mean) + 24)
    log_share = lambda k: k * math.log(mean) - mean - math.lgamma(k + 1)
    return np.cumsum([math.exp(log_share(k)) for k in range(most)])


@functools.cache
def ngrams(longest: int) -> np.ndarray:
    """P(length <= k) for k = 0, .., longest if P(k) is in proportion to 1 / k (ALBERT)."""
    shares = np.append(0.0, 1.0 / np.arange(1, longest + 1))
    return np.cumsum(shares / shares.sum())


def draw_lengths(cumulative: np.ndarray, uniforms_BxS: np.ndarray) -> np.ndarray:
    """Lengths [B, S] by the inverse of a cumulative distribution."""
    lengths_BxS = np.searchsorted(cumulative, uniforms_BxS, side='right')
    return np.minimum(lengths_BxS, len(cumulative) - 1)


@functools.cache
def spans_enough(budget: int, mean: float) -> int:
    """How many Poisson lengths add up to `budget`, but for one row in 10^10.

    n of them are Poisson of n * mean = m, and P(below m - t) <= exp(-t^2 / 2m) with t = 7 sqrt(m).
    """
    root = (7 + math.sqrt(49 + 4 * budget)) / 2
    return math.ceil(root * root / mean)


def budgets(words_B: np.ndarray, share: float) -> np.ndarray:
    """How many of so many words spans cover: ceil(share * words), in double precision."""
    return np.ceil(words_B * share - 1e-9).astype(np.int64)  # 0.1 * 30 is above 3


def trim(lengths_BxS: np.ndarray, budgets_B: np.ndarray, most_B: np.ndarray) -> Spans:
    """The first lengths that add up to the budgets: the last one cut, or stretched if there are
    too few, and no spans of length 0 beyond `most_B` spans, which is at least the budget."""
    budgets_Bx1 = budgets_B[:, None]
    ends_BxS = np.cumsum(lengths_BxS, axis=1)
    ends_BxS[:, -1] = np.maximum(ends_BxS[:, -1], budgets_B)
    ends_BxS = np.minimum(ends_BxS, budgets_Bx1)
    begins_BxS = np.pad(ends_BxS[:, :-1], ((0, 0), (1, 0)))
    lengths_BxS, used_BxS = ends_BxS - begins_BxS, begins_BxS < budgets_Bx1
    empty_BxS = used_BxS & (lengths_BxS == 0)
    room_B = most_B - (lengths_BxS > 0).sum(1)
    used_BxS &= ~(empty_BxS & (np.cumsum(empty_BxS, axis=1) > room_B[:, None]))
    return Spans(lengths_BxS, used_BxS)


def place(
    spans: Spans, words_B: np.ndarray, width: int, scores_BxI: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where spans lie: words covered, bool [B, width], and spans before each, [B, width + 1].

    Spans never overlap: spans and uncovered words are in uniformly random order. A span of
    length 0 lies before a word or after the last.

    Args:
      words_B: words of each row, at most `width`.
      scores_BxI: numbers, at least as many as uncovered words and spans of a row.
    """
    lengths_BxS, used_BxS = spans
    rows = len(words_B)
    kept_B, spans_B = words_B - lengths_BxS.sum(1), used_BxS.sum(1)
    index_I = np.arange(scores_BxI.shape[1])
    scores_BxI = np.where(index_I < (kept_B + spans_B)[:, None], scores_BxI, 2.0)
    items_BxI = np.argsort(scores_BxI, axis=1)
    items = items_BxI[index_I < spans_B[:, None]]  # those of the used spans, row by row
    of_row = np.nonzero(used_BxS)[0]
    sizes_BxI = (index_I < (kept_B + spans_B)[:, None]).astype(np.int64)
    sizes_BxI[of_row, items] = lengths_BxS[used_BxS]
    begins = (np.cumsum(sizes_BxI, axis=1) - sizes_BxI)[of_row, items] + of_row * (width + 1)
    ends = begins + lengths_BxS[used_BxS]
    count = lambda places: np.bincount(places, minlength=rows * (width + 1)).reshape(rows, -1)
    before_BxW = count(begins)
    covered_BxW = np.cumsum(before_BxW - count(ends), axis=1) > 0
    return covered_BxW[:, :width], before_BxW


def word_starts(
    tokens_BxL: np.ndarray, text_BxL: np.ndarray, starts: np.ndarray | None
) -> np.ndarray:
    """True at the first token of each word, bool [B, L]; special tokens end a word and are none.

    Args:
      text_BxL: which tokens are text.
      starts: bool [V], ids that begin a word; None makes every token a word.
    """
    if starts is None:
        return text_BxL.copy()
    opens_BxL = starts[tokens_BxL]
    opens_BxL[:, 0] = True
    opens_BxL[:, 1:] |= ~text_BxL[:, :-1]
    return opens_BxL & text_BxL


def at_tokens(
    covered_BxW: np.ndarray, before_BxW: np.ndarray, starts_BxL: np.ndarray, text_BxL: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What `place` says of words, said of tokens: covered [B, L], spans before each [B, L + 1].

    Spans after the last word come after all tokens up to the last that is text.
    """
    word_BxL = np.cumsum(starts_BxL, axis=1) - 1
    rows, width = starts_BxL.shape
    covered_BxL = np.take_along_axis(covered_BxW, np.maximum(word_BxL, 0), axis=1) & text_BxL
    inserted_BxL = np.zeros((rows, width + 1), np.int64)
    begin_rows, begin_places = np.nonzero(starts_BxL)
    inserted_BxL[begin_rows, begin_places] = before_BxW[begin_rows, word_BxL[starts_BxL]]
    last_B = (text_BxL * np.arange(1, width + 1)).max(1)
    every = np.arange(rows)
    inserted_BxL[every, last_B] += before_BxW[every, word_BxL[:, -1] + 1]
    return covered_BxL, inserted_BxL


def fill(
    tokens_BxL: np.ndarray, kept_BxL: np.ndarray, inserted_BxL: np.ndarray, width: int
) -> packing.Rows:
    """The kept tokens and, before each of the L + 1 places, so many HOLEs, as rows [B, width]."""
    counts_BxL = inserted_BxL + np.pad(kept_BxL, ((0, 0), (0, 1)))
    lengths_B = counts_BxL.sum(1)
    flat = np.full(lengths_B.sum(), HOLE, np.int32)
    ends_BxL = np.cumsum(counts_BxL.ravel()).reshape(counts_BxL.shape)[:, :-1]
    flat[ends_BxL[kept_BxL] - 1] = tokens_BxL[kept_BxL]
    segments_BxL, positions_BxL = packing.extents(lengths_B, width)
    out_BxL = np.zeros_like(segments_BxL)
    out_BxL[segments_BxL > 0] = flat
    return packing.Rows(out_BxL, segments_BxL, positions_BxL)
