"""Examples of several texts, one row of each: query and answer, perhaps with a negative."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from t5x_lite.data.packing import Fronts, Rows, under

# B rows, L tokens of a row.


class Aligned:
    """A cutter that makes one row of each feature of an example, cut to fit: {feature: Rows}.

    An example is dropped if one of its features is empty, but for those in `optional`: their row
    is then all padding.
    """

    def __init__(self, lengths: Mapping[str, int], optional: Sequence[str] = ()):
        self._fronts = {name: Fronts(length, name) for name, length in lengths.items()}
        self._needed = [name for name in lengths if name not in optional]
        self.dropped = 0

    def add(self, example: Mapping[str, np.ndarray]) -> None:
        if not all(len(example[name]) for name in self._needed):
            self.dropped += 1
            return
        for front in self._fronts.values():
            front.add(example)

    def ready(self) -> int:
        return min(front.ready() for front in self._fronts.values())

    def take(self, count: int) -> dict[str, Rows]:
        return {name: front.take(count) for name, front in self._fronts.items()}

    def flush(self) -> None:
        pass  # every example is whole rows already

    def state(self) -> dict[str, np.ndarray]:
        state = {'dropped': np.int64(self.dropped)}
        for name, front in self._fronts.items():
            state |= {f'{name}/{key}': value for key, value in front.state().items()}
        return state

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self.dropped = int(state['dropped'])
        for name, front in self._fronts.items():
            front.restore(under(state, f'{name}/'))


def side_spec(side: str, length: int) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shapes and types of a row of the arrays of `side_batch`."""
    names = ('input_tokens', 'segment_ids', 'positions')
    spec = {f'{side}_{name}': ((length,), np.int32) for name in names}
    return spec | {f'{side}_example_ids': ((), np.int32)}


def side_batch(side: str, rows: Rows) -> dict[str, np.ndarray]:
    """One text of each row for an encoder, and a number of each text."""
    return {
        f'{side}_input_tokens': rows.tokens,
        f'{side}_segment_ids': rows.segments,
        f'{side}_positions': rows.positions,
        f'{side}_example_ids': text_ids(rows.tokens),
    }


def text_ids(tokens_BxL: np.ndarray) -> np.ndarray:
    """Numbers [B], int32, that are equal for equal rows, and for others once in 2^32 pairs.

    Multilinear hashing with fixed random factors (Lemire & Kaser 2014).
    """
    numbers_B = tokens_BxL.astype(np.uint64) @ _factors(tokens_BxL.shape[1])
    return (numbers_B >> np.uint64(32)).astype(np.uint32).view(np.int32)


@functools.cache
def _factors(length: int) -> np.ndarray:
    draw = np.random.Generator(np.random.Philox(0))
    return draw.integers(0, 2**64, length, dtype=np.uint64) | np.uint64(1)
