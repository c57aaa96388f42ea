"""Corruption of token rows: masked tokens and noise spans, as functions of uniform numbers."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Sequence

import numpy as np

# B rows, L tokens of a row, S spans of a row.


def rounded(x) -> np.ndarray:
    """Nearest integers, halves to even, of numbers computed in double precision; int64."""
    return np.rint(np.asarray(x, np.float64)).astype(np.int64)


def choose(scores_BxL: np.ndarray, counts_B: np.ndarray) -> np.ndarray:
    """Marks the `counts_B[i]` lowest scores of each row, bool [B, L].

    With uniform scores each subset of that size is equally likely.
    """
    order_BxL = np.argsort(scores_BxL, axis=1)
    first_BxL = np.arange(scores_BxL.shape[1]) < counts_B[:, None]
    chosen_BxL = np.zeros(scores_BxL.shape, bool)
    np.put_along_axis(chosen_BxL, order_BxL, first_BxL, axis=1)
    return chosen_BxL


def prediction_counts(lengths, rate: float, most: int | None = None, uniforms=None) -> np.ndarray:
    """How many tokens of a row masked LM predicts: min(most, max(1, round(rate * length))).

    Rate 0 predicts none. With `uniforms`, a number in [0, 1) for each row, the count is
    floor(rate * length + number) instead, whose mean is rate * length, and also 1 at least. Source:
    Devlin et al. 2018; fairseq's masked LM for the other (Liu et al. 2019).
    """
    exact = np.asarray(lengths) * rate
    counts = rounded(exact) if uniforms is None else np.floor(exact + uniforms).astype(np.int64)
    counts = np.maximum(1, counts) * (rate > 0)
    return counts if most is None else np.minimum(counts, most)


def chosen_places(chosen_BxL: np.ndarray, most: int) -> np.ndarray:
    """Where each row has chosen tokens, in order, int32 [B, most]; 0 for those it has not."""
    rows, places = np.nonzero(chosen_BxL)
    counts_B = np.bincount(rows, minlength=len(chosen_BxL))
    first_B = np.cumsum(counts_B) - counts_B
    out_BxP = np.zeros((len(chosen_BxL), most), np.int32)
    out_BxP[rows, np.arange(len(rows)) - first_B[rows]] = places
    return out_BxP


def replace_chosen(
    tokens_BxL: np.ndarray,
    chosen_BxL: np.ndarray,
    uniforms_BxL: np.ndarray,
    *,
    mask: int,
    ordinary: np.ndarray,
    mask_share: float,
    random_share: float,
) -> np.ndarray:
    """Tokens [B, L] in which each chosen one is a mask, or random, or as it was.

    Args:
      uniforms_BxL: one number per token decides which, and the random token.
      ordinary: the ids to draw from, each equally likely.
      mask_share, random_share: probabilities of the two changes.
    """
    masked_BxL = chosen_BxL & (uniforms_BxL < mask_share)
    random_BxL = chosen_BxL & ~masked_BxL & (uniforms_BxL < mask_share + random_share)
    corrupted_BxL = np.where(masked_BxL, np.int32(mask), tokens_BxL)
    if random_share:
        draw = (uniforms_BxL[random_BxL] - mask_share) / random_share * len(ordinary)
        corrupted_BxL[random_BxL] = ordinary[np.minimum(draw.astype(np.int64), len(ordinary) - 1)]
    return corrupted_BxL


def span_counts(lengths, density: float, mean_span: float) -> tuple[np.ndarray, np.ndarray]:
    """Noise tokens and noise spans in rows of so many tokens; 0 and 0 if density is 0 or length 1.

    Source: T5 (Raffel et al. 2020), `random_spans_noise_mask`.
    """
    lengths = np.asarray(lengths)
    if density == 0:
        return np.zeros_like(lengths), np.zeros_like(lengths)
    noise = np.clip(rounded(lengths * density), 1, lengths - 1)
    spans = np.clip(rounded(noise / mean_span), 1, np.minimum(noise, lengths - noise))
    return noise, spans


@functools.cache
def raw_length(inputs_length: int, density: float, mean_span: float) -> tuple[int, int]:
    """How many tokens to corrupt so that the inputs have `inputs_length`, and the targets' length.

    Both lengths count one sentinel per span and EOS: 512 inputs at 0.15 and 3.0 give (568, 114).
    Source: T5, `random_spans_helper`.
    """
    lengths = np.arange(inputs_length - 1, int(inputs_length / (1 - density)) + 3)
    noise, spans = span_counts(lengths, density, mean_span)
    inputs, targets = lengths - noise + spans + 1, noise + spans + 1
    last = np.searchsorted(inputs, inputs_length, side='right') - 1  # inputs never decrease
    if density == 0.5 and targets[last] > inputs[last]:
        last -= 1
    return int(lengths[last]), int(targets[last])


def span_mask(
    lengths_B: np.ndarray, width: int, density: float, mean_span: float, uniforms_BxL: np.ndarray
) -> np.ndarray:
    """Marks noise, bool [B, width]; a row starts with text and ends with noise.

    Noise and text are each cut into as many parts as there are spans, uniformly over all ways to
    do so, and interleaved.

    Args:
      lengths_B: tokens in each row, at most `width`.
      uniforms_BxL: `width` numbers per row; a row's mask depends on its own only.
    """
    noise_B, spans_B = span_counts(lengths_B, density, mean_span)
    most_noise, most_spans = (int(count) for count in span_counts(width, density, mean_span))
    if most_spans == 0:
        return np.zeros((len(lengths_B), width), bool)
    for_noise_BxL, for_text_BxL = uniforms_BxL[:, :most_noise], uniforms_BxL[:, most_noise:]
    parts_BxSx2 = np.stack(
        [
            _parts(lengths_B - noise_B, spans_B, most_spans, for_text_BxL),
            _parts(noise_B, spans_B, most_spans, for_noise_BxL),
        ],
        axis=-1,
    )
    ends_BxS = np.cumsum(parts_BxSx2.reshape(-1, 2 * most_spans), axis=1)
    turns_BxL = _histogram(ends_BxS, width + 1)[:, :width]  # from text to noise or back
    return (np.cumsum(turns_BxL, axis=1) % 2 == 1) & (np.arange(width) < lengths_B[:, None])


def _parts(totals_B, counts_B, most: int, uniforms_BxL) -> np.ndarray:
    """Sizes [B, most] of `counts_B` non-empty parts that add up to `totals_B`; the rest are 0."""
    index_L = np.arange(uniforms_BxL.shape[1])
    scores_BxL = np.where((index_L > 0) & (index_L < totals_B[:, None]), uniforms_BxL, 2.0)
    part_BxL = np.cumsum(choose(scores_BxL, counts_B - 1), axis=1)
    part_BxL[index_L >= totals_B[:, None]] = most
    return _histogram(part_BxL, most + 1)[:, :most]


def _histogram(values_BxL: np.ndarray, size: int) -> np.ndarray:
    """How often each of 0..size-1 is in each row, [B, size]."""
    rows = len(values_BxL)
    flat = values_BxL + np.arange(rows)[:, None] * size
    return np.bincount(flat.ravel(), minlength=rows * size).reshape(rows, size)


def split_spans(
    tokens_BxL: np.ndarray,
    mask_BxL: np.ndarray,
    lengths_B: np.ndarray,
    sentinels: Sequence[int],
    widths: tuple[int, int],
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Inputs (text, a sentinel for each noise span) and targets (a sentinel before each span).

    Each is (int32 [B, width] padded with 0, lengths [B]). The k-th span has the k-th sentinel on
    both sides, whether a row starts with text or with noise.

    Example: tokens a b c d e, noise b, d e: inputs a <0> c <1>, targets <0> b <1> d e.
    """
    text_BxL = ~mask_BxL & (np.arange(tokens_BxL.shape[1]) < lengths_B[:, None])
    starts_BxL = mask_BxL.copy()
    starts_BxL[:, 1:] &= ~mask_BxL[:, :-1]
    span_BxL = np.cumsum(starts_BxL, axis=1)
    marks = np.asarray(sentinels, np.int32)[span_BxL[starts_BxL] - 1]
    start_rows = np.nonzero(starts_BxL)[0]

    def side(kept_BxL: np.ndarray, before: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        place_BxL = np.cumsum(kept_BxL, axis=1) - 1 + span_BxL
        out = np.zeros((len(tokens_BxL), width), np.int32)
        out[np.nonzero(kept_BxL)[0], place_BxL[kept_BxL]] = tokens_BxL[kept_BxL]
        out[start_rows, place_BxL[starts_BxL] - before] = marks
        return out, place_BxL[:, -1] + 1

    return side(text_BxL, 0, widths[0]), side(mask_BxL, 1, widths[1])
