"""Rows of ids, any number and length, through a model: few widths, batches of one size."""
# SPDX-License-Identifier: Apache-2.0

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from t5x_lite import sharding

AT_ONCE = 1024  # items that are in memory together
SHORTEST = 16  # rows are as long as a power of two: few lengths to compile for


class Through(Protocol):
    """A model with its weights that rows of ids go through: inference.Opened, or an evaluator's."""

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and segments [n, L], as the function below."""

    def compute(self, function: Callable, rows: Mapping[str, np.ndarray], **static) -> dict:
        """`function(model, batch, **static)`, arrays [n, ...] by name, on the host."""


def power_of_two(count: int) -> int:
    """The smallest one that is no less."""
    return 1 << max(0, count - 1).bit_length()


def padded(rows: Sequence[Sequence[int]], most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and segments [n, L] of rows of ids; L a power of two, or `most`, all positions."""
    longest = max(map(len, rows))
    width = int(max(longest, min(power_of_two(max(SHORTEST, longest)), most or math.inf)))
    tokens_NxL, segments_NxL = np.zeros((2, len(rows), width), np.int32)
    for i, row in enumerate(rows):
        tokens_NxL[i, : len(row)], segments_NxL[i, : len(row)] = row, 1
    return tokens_NxL, segments_NxL


def in_batches(run: Callable, rows: Mapping[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """What `run` gives for batches of `size` rows, [n, ...] by name, of all n rows, on the host.

    The last batch is filled up by a row that is there already, whose results are dropped.
    """
    count, parts = len(next(iter(rows.values()))), []
    for begin in range(0, count, size):
        real = min(size, count - begin)
        index = np.minimum(np.arange(begin, begin + size), begin + real - 1)
        found = run({name: x[index] for name, x in rows.items()})
        parts.append({name: np.asarray(x)[:real] for name, x in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def by_length(items: Sequence, length: Callable, run: Callable) -> list:
    """What `run` gives for a list of items, a result each: of all, in parts alike in `length`.

    So that short ones are not padded to the longest, and few are in memory together.
    """
    groups: dict[int, list[int]] = {}
    for i, item in enumerate(items):
        groups.setdefault(power_of_two(max(SHORTEST, length(item))), []).append(i)
    found = [None] * len(items)
    for numbers in groups.values():
        for begin in range(0, len(numbers), AT_ONCE):
            part = numbers[begin : begin + AT_ONCE]
            for i, result in zip(part, run([items[i] for i in part]), strict=True):
                found[i] = result
    return found


def ways(mesh, rules) -> int:
    """Over how many parts of the mesh the rows of a batch are split."""
    axes = sharding.spec(('batch',), rules)[0] or ()
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))


def batch_size(wanted: int, mesh, rules) -> int:
    """The smallest number of rows, no less than wanted, that divides over those parts."""
    parts = ways(mesh, rules)
    return parts * -(-wanted // parts)
