"""Contrastive learning from plain text: two crops of one passage find each other."""
# SPDX-License-Identifier: Apache-2.0
# B rows, P tokens of a passage, L of a crop with its marks.

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from t5x_lite.data import packing, pairs
from t5x_lite.errors import ConfigError
from t5x_lite.objective import Objective, Schedule, Term
from t5x_lite.objectives.checks import check_ids, check_lengths, check_share
from t5x_lite.objectives.pairs import SIDES, EncodePairs
from t5x_lite.objectives.similarity import ContrastiveLoss, every_layer, pool_mean

PLACES = 5  # numbers drawn for where a passage's crops lie


@dataclass(frozen=True, kw_only=True)
class Crops:
    """Two crops `[CLS] .. [SEP]` of each passage of a text, drawn anew whenever it is read.

    Lengths are uniform from `shortest` to what fits. With `apart` the second crop begins where the
    first one ends, or the other way round; else their places are drawn independently. Of each crop
    the share `deletion` of its tokens is then left out.
    """

    passage: int = 256
    shortest: int = 8
    apart: bool = False
    deletion: float = 0.1
    features: ClassVar[tuple[str, ...]] = ('targets',)
    longest: ClassVar[int | None] = None
    marks: ClassVar[str] = 'cls'

    def __post_init__(self):
        if not 1 <= self.shortest <= self.passage // 2:
            raise ConfigError(
                f'crops: shortest={self.shortest} must be from 1 to half of '
                f'passage={self.passage}; try {max(1, min(8, self.passage // 2))}'
            )
        check_share('crops', 'deletion', self.deletion, 0.1)

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        why = f'[CLS], shortest={self.shortest} tokens, [SEP]'
        check_lengths('crops', lengths, {'targets': self.shortest + 2}, why)
        if vocabulary is not None:
            check_ids('crops', vocabulary, 'cls', 'sep')

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        left, right = (pairs.side_spec(side, lengths['targets']) for side in SIDES[:2])
        return left | right

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        return packing.Chunks(self.passage, min_tokens=2 * self.shortest)

    def draws(self, lengths: Mapping[str, int]) -> int:
        return PLACES + 2 * (lengths['targets'] - 2)

    def batch(self, rows: packing.Rows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        width = lengths['targets'] - 2
        places = self._places(rows.lengths, width, uniforms[:, :PLACES])
        kept_2xBxL = np.split(uniforms[:, PLACES:] >= self.deletion, 2, axis=1)
        batch = {}
        for side, begin_B, length_B, kept_BxL in zip(SIDES, *places, kept_2xBxL, strict=False):
            crop = thinned(cropped(rows, begin_B, length_B, width), kept_BxL)
            batch |= pairs.side_batch(side, packing.frame(crop, vocabulary))
        return batch

    def _places(self, size_B: np.ndarray, width: int, uniforms: np.ndarray):
        """Where the crops begin and how many tokens they have, int [2, B] each."""
        most_B = np.minimum(width, size_B // 2 if self.apart else size_B)
        drawn = lambda u, most: (u * (most + 1)).astype(np.int64)
        length_2xB = self.shortest + drawn(uniforms[:, :2].T, most_B - self.shortest)
        if not self.apart:
            return drawn(uniforms[:, 2:4].T, size_B - length_2xB), length_2xB
        first_B = drawn(uniforms[:, 2], size_B - length_2xB.sum(0))
        second_2xB = np.stack([uniforms[:, 4] < 0.5, uniforms[:, 4] >= 0.5])
        return first_B + length_2xB[::-1] * second_2xB, length_2xB


def cropped(rows: packing.Rows, begin_B, length_B, width: int) -> packing.Rows:
    """Of each row `length_B` tokens from `begin_B` on, as rows of `width`."""
    segments_BxL, positions_BxL = packing.extents(length_B, width)
    place_BxL = np.minimum(begin_B[:, None] + positions_BxL, rows.tokens.shape[1] - 1)
    tokens_BxL = np.take_along_axis(rows.tokens, place_BxL, axis=1) * segments_BxL
    return packing.Rows(tokens_BxL, segments_BxL, positions_BxL)


def thinned(rows: packing.Rows, kept_BxL: np.ndarray) -> packing.Rows:
    """The rows with those tokens alone, moved to the front; a row that would lose all keeps one."""
    kept_BxL = kept_BxL & (rows.segments > 0)
    kept_BxL[:, 0] |= ~kept_BxL.any(1)
    segments_BxL, positions_BxL = packing.extents(kept_BxL.sum(1), kept_BxL.shape[1])
    order_BxL = np.argsort(~kept_BxL, axis=1, kind='stable')
    tokens_BxL = np.take_along_axis(rows.tokens, order_BxL, axis=1) * segments_BxL
    return packing.Rows(tokens_BxL, segments_BxL, positions_BxL)


def crops(
    *,
    passage: int = 256,
    shortest: int = 8,
    apart: bool = False,
    deletion: float = 0.1,
    temperature: float = 0.05,
    pool: Callable = pool_mean,
    weight: float | Schedule = 1.0,
) -> Objective:
    """Crops of one passage are a pair, on lengths {'targets': L}; the rest of the batch negatives.

    Independent crops (`apart=False`) as in Contriever (Izacard et al. 2022: passages of 256, a
    tenth of the tokens deleted, mean pooling, temperature 0.05; there with a queue of negatives,
    here those of the global batch); `apart` takes neighbouring pieces as in Neelakantan et al.
    (2022), who delete nothing. Both directions count.
    """
    views = tuple(f'{side}_hidden' for side in SIDES[:2])
    loss = ContrastiveLoss(temperature=temperature, pool=pool, views=views, directions='mean')
    return Objective(
        converter=Crops(passage=passage, shortest=shortest, apart=apart, deletion=deletion),
        forward=EncodePairs(every_layer=every_layer(pool)),
        terms={'crops': Term(loss=loss, weight=weight, batchwide=True)},
    )
