"""Orders of tokens: shuffled, by sentences or rotated, as functions of uniform numbers."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from t5x_lite.data import sentences

# B rows, L tokens of a row. An order says from which place of its row each token comes:
# `np.take_along_axis(tokens_BxL, order_BxL, axis=1)`.


def text_ids(vocabulary) -> np.ndarray:
    """Ids that may move, bool [V]: no special ones, but those of text that has no piece (unk)."""
    text = ~vocabulary.special
    if vocabulary.unk is not None:
        text[vocabulary.unk] = True
    return text


def sentence_starts(tokens_BxL: np.ndarray, table: sentences.Marks, special: int) -> np.ndarray:
    """True where a sentence starts, bool [B, L]; a row starts one. `special` is any special id."""
    apart_BxL = np.pad(tokens_BxL, ((0, 0), (1, 0)), constant_values=special)  # rows end there
    starts_BxL = sentences.boundaries(apart_BxL.ravel(), table).reshape(apart_BxL.shape)[:, 1:]
    starts_BxL[:, 0] = True
    return starts_BxL


def in_place(order_BxL: np.ndarray, moved_BxL: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """The order in which the moved places, in reading order, come from the flat places `flat`."""
    order_BxL[moved_BxL] = flat % moved_BxL.shape[1]
    return order_BxL


def unmoved(shape: tuple[int, int]) -> np.ndarray:
    """The order [B, L] that changes nothing."""
    return np.tile(np.arange(shape[1]), (shape[0], 1))


def shuffle(moved_BxL: np.ndarray, scores_BxL: np.ndarray) -> np.ndarray:
    """The order [B, L] in which the moved places exchange their tokens uniformly at random."""
    width = moved_BxL.shape[1]
    by_score_BxL = np.argsort(np.where(moved_BxL, scores_BxL, 2.0), axis=1)
    first_BxL = np.arange(width) < moved_BxL.sum(1)[:, None]
    return in_place(unmoved(moved_BxL.shape), moved_BxL, by_score_BxL[first_BxL])


def shuffle_sentences(
    starts_BxL: np.ndarray, moved_BxL: np.ndarray, scores_BxL: np.ndarray
) -> np.ndarray:
    """The order [B, L] that puts each row's sentences in uniformly random order.

    Tokens that do not move keep their places, between other sentences. A sentence's score is that
    of its first token that moves. Source: Lewis et al. 2019.
    """
    flat = np.flatnonzero(moved_BxL)
    if len(flat) == 0:
        return unmoved(moved_BxL.shape)
    sentence = np.cumsum(starts_BxL)[flat]
    begins = np.flatnonzero(np.diff(sentence, prepend=sentence[0] - 1))
    lengths = np.diff(begins, append=len(flat))
    rows = flat[begins] // moved_BxL.shape[1]
    chosen = np.lexsort((scores_BxL.ravel()[flat[begins]], rows))
    lengths = lengths[chosen]
    before = np.cumsum(lengths) - lengths
    source = np.repeat(begins[chosen] - before, lengths) + np.arange(len(flat))
    return in_place(unmoved(moved_BxL.shape), moved_BxL, flat[source])


def rotate(moved_BxL: np.ndarray, pivots_B: np.ndarray) -> np.ndarray:
    """The order [B, L] in which a row begins at its pivot and ends with what was before it.

    Args:
      pivots_B: numbers in [0, 1): the first token is uniform over those that move; 0 is no change.
    """
    counts_B = moved_BxL.sum(1)
    flat = np.flatnonzero(moved_BxL)
    rows = flat // moved_BxL.shape[1]
    begins, counts = (np.cumsum(counts_B) - counts_B)[rows], counts_B[rows]
    pivots = (pivots_B * counts_B).astype(np.int64)[rows]
    source = begins + (np.arange(len(flat)) - begins + pivots) % np.maximum(counts, 1)
    return in_place(unmoved(moved_BxL.shape), moved_BxL, flat[source])
