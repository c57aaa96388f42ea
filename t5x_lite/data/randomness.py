"""Random numbers of data rows: a function of seed and row number, or of what is in the row."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Sequence

import numpy as np


def uniforms(seed: Sequence[int], first_row: int, rows: int, draws: int) -> np.ndarray:
    """Numbers in [0, 1), float64 [rows, draws], of rows `first_row`, `first_row + 1`, ...

    Row r has the same numbers in whatever call it is asked for. `seed` is any integers of 0 or
    more. Source: Philox 4x64, a counter-based generator (Salmon et al. 2011).
    """
    blocks = -(-draws // 4)  # one step of the counter makes four numbers
    bits = np.random.Philox(np.random.SeedSequence(tuple(seed)))
    bits.advance(first_row * blocks)
    return np.random.Generator(bits).random((rows, 4 * blocks))[:, :draws]


def keyed(keys_B: np.ndarray, draws: int) -> np.ndarray:
    """Numbers in [0, 1), float64 [B, draws], each row's a function of its key, uint64, only.

    Source: SplitMix64 (Steele et al. 2014).
    """
    steps = np.arange(1, draws + 1, dtype=np.uint64) * _GOLDEN
    return (_mixed(keys_B[:, None] + steps) >> np.uint64(11)) * 2.0**-53


def hashed(values_BxL: np.ndarray) -> np.ndarray:
    """A key, uint64 [B], of the integers in each row and their order."""
    steps = np.arange(1, values_BxL.shape[1] + 1, dtype=np.uint64) * _GOLDEN
    return _mixed(values_BxL.astype(np.uint64) + steps).sum(1, dtype=np.uint64)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mixed(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
