"""Best-fit packing: rows of any converter, several in one row, each a segment of its own."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping

import numpy as np

from t5x_lite.data import packing
from t5x_lite.data.randomness import uniforms
from t5x_lite.errors import ConfigError

# n examples, L places of a row.
AT_ONCE = 64  # examples that the inner converter makes in one call
ROWS = 0  # tells the random numbers of examples from those of the inner cutter


def without_places(spec: Mapping) -> dict:
    """A spec without the places that are scored: in a row of several examples all places are."""
    return {name: x for name, x in spec.items() if not name.endswith('_predicted_positions')}


def sides(spec: Mapping) -> dict[str, str]:
    """The side of each array of a batch, by its name: encoder or decoder (token types: encoder)."""
    return {n: 'encoder' if n == 'token_type_ids' else n.split('_')[0] for n in spec}


def largest_first(lengths_nxS: np.ndarray, room_S: np.ndarray, least: int) -> list[list[int]]:
    """Examples of each row: the oldest, then again and again the largest that fits.

    Stops when fewer than `least` examples are left.

    Args:
      lengths_nxS: tokens of each example on each side, the oldest example first.
      room_S: places of a row on each side.
    """
    order_n = np.argsort(-(lengths_nxS / room_S).sum(1), kind='stable')
    sorted_nxS = lengths_nxS[order_n]
    place_n = np.argsort(order_n)  # of each example in the sorted list
    waiting_n = np.ones(len(order_n), bool)
    rows, left, oldest = [], len(order_n), 0
    while left and left >= least:
        while not waiting_n[place_n[oldest]]:
            oldest += 1
        place, row, room = place_n[oldest], [], room_S
        while True:
            row.append(int(order_n[place]))
            waiting_n[place] = False
            room = room - sorted_nxS[place]
            fits_n = waiting_n & (sorted_nxS <= room).all(1)
            place = int(fits_n.argmax())
            if not fits_n[place]:
                break
        rows.append(row)
        left -= len(row)
    return rows


class BestFit:
    """A cutter: the batches of `converter`, packed; `take` gives the arrays of a batch.

    It waits until `buffer` examples are there, then makes rows until half of them are left, so that
    there is always a choice. The oldest example begins a row: none waits for ever.
    """

    def __init__(self, converter, lengths, vocabulary, seed, buffer: int):
        self._converter, self._lengths, self._vocabulary = converter, lengths, vocabulary
        self._seed, self._buffer = tuple(seed), buffer
        self._inner = converter.cutter(lengths, vocabulary, self._seed)
        spec = without_places(converter.spec(lengths))
        self._sides = sides(spec)
        self._room = {s: spec[f'{s}_segment_ids'][0][0] for s in sorted({*self._sides.values()})}
        self._made, self._ended = 0, False
        # All tokens of waiting examples, flat; their sizes on each side; their row, -1 for none.
        self._flat = {name: np.zeros(0, dtype) for name, (_, dtype) in spec.items()}
        self._sizes = {side: np.zeros(0, np.int64) for side in self._room}
        self._row = np.zeros(0, np.int64)

    @property
    def dropped(self) -> int:
        return self._inner.dropped

    def add(self, example: Mapping[str, np.ndarray]) -> None:
        self._inner.add(example)
        while self._inner.ready() >= AT_ONCE:
            self._make(AT_ONCE)
            self._pack()

    def flush(self) -> None:
        self._inner.flush()
        self._make(self._inner.ready())
        self._ended = True
        self._pack()

    def ready(self) -> int:
        return int(self._row.max(initial=-1)) + 1

    def _make(self, count: int) -> None:
        """Takes `count` rows of the inner converter and keeps what is not padding."""
        if not count:
            return
        numbers = uniforms(
            (*self._seed, ROWS), self._made, count, self._converter.draws(self._lengths)
        )
        rows, self._made = self._inner.take(count), self._made + count
        batch = self._converter.batch(rows, self._lengths, self._vocabulary, numbers)
        used = {side: batch[f'{side}_segment_ids'] > 0 for side in self._room}
        for name, array in without_places(batch).items():
            if name.endswith('_segment_ids') and array.max() > 1:
                raise ConfigError(
                    'packed: rows of its objective hold several segments already; leave packed() '
                    'out, or give causal_lm(join=False)'
                )
            new = array[used[self._sides[name]]]
            self._flat[name] = np.concatenate([self._flat[name], new])
        for side, used_nxL in used.items():
            self._sizes[side] = np.concatenate([self._sizes[side], used_nxL.sum(1)])
        self._row = np.concatenate([self._row, np.full(count, -1)])

    def _pack(self) -> None:
        waiting = np.flatnonzero(self._row < 0)
        if len(waiting) < self._buffer and not self._ended:
            return
        sizes_nxS = np.stack([sizes[waiting] for sizes in self._sizes.values()], 1)
        room_S, least = np.array([*self._room.values()]), 0 if self._ended else self._buffer // 2
        for number, row in enumerate(largest_first(sizes_nxS, room_S, least), self.ready()):
            self._row[waiting[row]] = number

    def take(self, count: int) -> dict[str, np.ndarray]:
        """Arrays [count, L] of the next rows."""
        taken = (self._row >= 0) & (self._row < count)
        chosen = np.flatnonzero(taken)
        chosen = chosen[np.argsort(self._row[chosen], kind='stable')]
        rows, out = self._row[chosen], {}
        first = np.searchsorted(rows, rows)  # the first example of each one's row
        for side, room in self._room.items():
            sizes = self._sizes[side]
            own, kept = sizes[chosen], np.repeat(~taken, sizes)
            offsets = before(own) - before(own)[first]
            source = ranges(before(sizes)[chosen], own)
            target = ranges(rows * room + offsets, own)
            for name in (name for name, of in self._sides.items() if of == side):
                values = self._flat[name][source]
                if name.endswith('_segment_ids'):
                    values = np.repeat(1 + np.arange(len(rows)) - first, own)
                array = np.zeros((count, room), self._flat[name].dtype)
                array.reshape(-1)[target] = values
                out[name], self._flat[name] = array, self._flat[name][kept]
            self._sizes[side] = sizes[~taken]
        self._row = np.where(self._row < 0, -1, self._row - count)[~taken]
        return out

    def state(self) -> dict[str, np.ndarray]:
        inner = {f'inner/{name}': value for name, value in self._inner.state().items()}
        flat = {f'flat/{name}': value.copy() for name, value in self._flat.items()}
        sizes = {f'sizes/{side}': value.copy() for side, value in self._sizes.items()}
        own = {'row': self._row.copy(), 'made': np.int64(self._made)}
        return {**inner, **flat, **sizes, **own, 'ended': np.bool_(self._ended)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self._inner.restore(packing.under(state, 'inner/'))
        self._flat, self._sizes = packing.under(state, 'flat/'), packing.under(state, 'sizes/')
        self._row, self._made = state['row'], int(state['made'])
        self._ended = bool(state['ended'])


def before(sizes_n: np.ndarray) -> np.ndarray:
    """The sum of the sizes before each."""
    return np.cumsum(sizes_n) - sizes_n


def ranges(begins_n: np.ndarray, sizes_n: np.ndarray) -> np.ndarray:
    """begin, begin + 1, ... of each size, joined."""
    return np.repeat(begins_n - before(sizes_n), sizes_n) + np.arange(sizes_n.sum())
