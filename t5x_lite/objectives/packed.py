"""Packing: short examples of an objective share rows, by best fit, and do not see each other."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from t5x_lite.data import best_fit
from t5x_lite.errors import ConfigError
from t5x_lite.objective import Converter, Objective


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Rows of another converter, several in one, each a segment with positions of its own.

    `buffer` is the number of examples among which a row finds what fits; they are made ahead.
    """

    converter: Converter
    buffer: int = 1024
    packs: ClassVar[bool] = True

    def __post_init__(self):
        if type(self.buffer) is not int or self.buffer < 2:
            raise ConfigError(f'packed: buffer={self.buffer!r} must be an integer of 2 or more')

    @property
    def features(self) -> tuple[str, ...]:
        return self.converter.features

    @property
    def longest(self) -> int | None:
        return self.converter.longest

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        self.converter.check(lengths, vocabulary)
        spec = self.spec(lengths)
        for name, side in best_fit.sides(spec).items():
            if spec[name][0] != spec.get(f'{side}_segment_ids', [None])[0]:
                raise ConfigError(
                    f'packed: {name} of shape {spec[name][0]} has no value for each token of the '
                    f'{side}, so examples that share a row would share it; train this objective '
                    'without packed()'
                )

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        return best_fit.without_places(self.converter.spec(lengths))

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> best_fit.BestFit:
        return best_fit.BestFit(self.converter, lengths, vocabulary, seed, self.buffer)

    def draws(self, lengths: Mapping[str, int]) -> int:
        return 0

    def batch(self, rows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        return rows


def packed(*, objective: Objective, buffer: int = 1024) -> Objective:
    """The objective on packed rows: `packed(objective=mlm())`, `packed(objective=prefix_lm())`.

    For objectives that make short rows; causal LM and span corruption fill theirs by joining
    documents, unless `causal_lm(join=False)`. Best fit keeps documents whole where concatenating
    cuts them (Ding et al. 2024, Fewer Truncations Improve Language Modeling).

    Raises:
      ConfigError: a loss or an array that is one for a row, such as a sentence vector or a label;
        an objective with parts (ELECTRA's generator), which are made for rows of one example.
    """
    if objective.parts:
        raise ConfigError(
            f'packed: {", ".join(objective.parts)} reads rows of one example; train this objective '
            'without packed()'
        )
    for name, term in objective.terms.items():
        if term.batchwide:
            raise ConfigError(
                f"packed: term '{name}' makes one vector of a row, so examples that share a row "
                'would share it; train this objective without packed()'
            )
    converter = Packed(converter=objective.converter, buffer=buffer)
    return dataclasses.replace(objective, converter=converter)
