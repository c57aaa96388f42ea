"""Annotations beside tokens, such as entities: rows of both, cut at the same places."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from t5x_lite.data import packing
from t5x_lite.errors import ConfigError


class Annotated(NamedTuple):
    """Rows, and features beside them that are cut alike: int32 [B, L] each, 0 in padding."""

    rows: packing.Rows
    marks: dict[str, np.ndarray]


class AnnotatedChunks:
    """`Chunks` of `targets` and, cut at the same places, of `features`, as `Annotated` rows.

    Raises:
      ConfigError: an example's feature has not as many numbers as its targets.
    """

    def __init__(self, length: int, features: Iterable[str], min_tokens: int = 2):
        self._chunks = {name: packing.Chunks(length, min_tokens) for name in ('targets', *features)}

    @property
    def dropped(self) -> int:
        return self._chunks['targets'].dropped

    def add(self, example: Mapping[str, np.ndarray]) -> None:
        tokens = len(example['targets'])
        for name in self._chunks:
            if len(example[name]) != tokens:
                raise ConfigError(
                    f'Stream: an example has {len(example[name])} numbers in {name!r} and {tokens} '
                    "in 'targets'; the task must give one for each token"
                )
        for name, chunks in self._chunks.items():
            chunks.add({'targets': example[name]})

    def ready(self) -> int:
        return self._chunks['targets'].ready()

    def take(self, count: int) -> Annotated:
        taken = {name: chunks.take(count) for name, chunks in self._chunks.items()}
        rows = taken.pop('targets')
        return Annotated(rows, {name: marks.tokens for name, marks in taken.items()})

    def flush(self) -> None:
        for chunks in self._chunks.values():
            chunks.flush()

    def state(self) -> dict[str, np.ndarray]:
        return {
            f'{name}/{key}': value
            for name, chunks in self._chunks.items()
            for key, value in chunks.state().items()
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        for name, chunks in self._chunks.items():
            chunks.restore(packing.under(state, f'{name}/'))
