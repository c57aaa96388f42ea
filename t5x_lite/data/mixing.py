"""Mixing: which task the next example comes from, at rates that may change with the step."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from t5x_lite.data import packing
from t5x_lite.data.randomness import uniforms
from t5x_lite.errors import ConfigError

BLOCK = 256  # numbers made at once: a generator costs more than a number


@dataclass(frozen=True, kw_only=True)
class BySize:
    """Rates min(examples, cap)^(1 / temperature) of tasks (Raffel et al. 2020; mT5: T = 10/3)."""

    temperature: float = 1.0
    cap: int = 2**21

    def __post_init__(self):
        if self.temperature <= 0:
            raise ConfigError(
                f'BySize: temperature={self.temperature} must be above 0; try 1.0 (by size) or 2.0'
            )
        if type(self.cap) is not int or self.cap < 1:
            raise ConfigError(f'BySize: cap={self.cap!r} must be an integer of 1 or more')

    def __call__(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """The rate of each task from its number of examples."""
        return {name: min(size, self.cap) ** (1 / self.temperature) for name, size in sizes.items()}


class Mixed:
    """An endless iterator over examples of several tasks; its position can be saved.

    Which task example n comes from depends on seed, n and the rates alone, and what a task gives
    next does not depend on the others.

    Args:
      sources: a `seqio_source.Examples`, endless, of each task.
      rates: a number of each task, or a function of the step; shares are rates over their sum.
      seed: integers of 0 or more.
    """

    def __init__(
        self, sources: Mapping, rates: Mapping[str, float | Callable], seed: Sequence[int]
    ):
        self._sources, self._rates, self._seed = dict(sources), dict(rates), tuple(seed)
        self.drawn = dict.fromkeys(self._sources, 0)  # examples of each task so far
        self._numbers = (-1, np.zeros(0))
        self.begin(0)

    def begin(self, step: int) -> None:
        """The examples that follow are of that step: its rates hold."""
        rates = np.array([_value(self._rates[name], step) for name in self._sources])
        if not (rates >= 0).all() or rates.sum() <= 0:
            shown = dict(zip(self._sources, rates.tolist(), strict=True))
            raise ConfigError(
                f'Stream: rates={shown} at step {step} must be 0 or more, one of them above 0'
            )
        self._ends = np.cumsum(rates) / rates.sum()

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        place = int(np.searchsorted(self._ends, self._number(), side='right'))
        name = list(self._sources)[place]
        self.drawn[name] += 1
        return next(self._sources[name])

    def _number(self) -> float:
        block, place = divmod(sum(self.drawn.values()), BLOCK)
        if self._numbers[0] != block:
            self._numbers = block, uniforms(self._seed, block * BLOCK, BLOCK, 1)[:, 0]
        return self._numbers[1][place]

    def state(self) -> dict[str, np.ndarray]:
        """Flat arrays: each source's position and how many examples it gave."""
        out = {f'drawn/{name}': np.int64(count) for name, count in self.drawn.items()}
        for name, source in self._sources.items():
            out |= {f'tasks/{name}/{key}': value for key, value in source.state().items()}
        return out

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        for name, source in self._sources.items():
            self.drawn[name] = int(state[f'drawn/{name}'])
            source.restore(packing.under(state, f'tasks/{name}/'))


def _value(rate: float | Callable, step: int) -> float:
    return float(rate(step)) if callable(rate) else rate
