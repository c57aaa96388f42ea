"""Random numbers of data rows: a function of seed and row number, however rows are batched."""
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
