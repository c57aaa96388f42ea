"""A cutter for examples that are whole rows already: labelled texts, questions, choices."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from t5x_lite.data.packing import under

Row = Mapping[str, Any]


class Finished:
    """A cutter around `make`, which makes an example's rows: {array: its values in the row} each.

    `spec` has the shape and dtype of every array of a row, as of a converter. An example of which
    no row is made is dropped.
    """

    def __init__(self, make: Callable[[Mapping[str, np.ndarray]], Iterable[Row]], spec: Mapping):
        self._make, self._spec = make, spec
        self._rows = []
        self.dropped = 0

    def add(self, example: Mapping[str, np.ndarray]) -> None:
        rows = list(self._make(example))
        self.dropped += not rows
        self._rows += rows

    def ready(self) -> int:
        return len(self._rows)

    def take(self, count: int) -> dict[str, np.ndarray]:
        """The arrays [count, ...] of the next rows."""
        rows, self._rows = self._rows[:count], self._rows[count:]
        return self._stacked(rows)

    def _stacked(self, rows) -> dict[str, np.ndarray]:
        out = {}
        for name, (shape, dtype) in self._spec.items():
            values = [row[name] for row in rows]
            out[name] = np.array(values, dtype).reshape(len(rows), *shape)
        return out

    def flush(self) -> None:
        pass  # every example is whole rows already

    def state(self) -> dict[str, np.ndarray]:
        waiting = {f'row/{name}': x for name, x in self._stacked(self._rows).items()}
        return waiting | {'dropped': np.int64(self.dropped)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self.dropped = int(state['dropped'])
        arrays = under(state, 'row/')
        count = len(next(iter(arrays.values())))
        self._rows = [{name: x[i] for name, x in arrays.items()} for i in range(count)]
