"""Means that add exactly; metrics.jsonl written and read; TensorBoard, W&B if asked."""
# SPDX-License-Identifier: Apache-2.0

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_lite.errors import RunError

Scalar = Any  # a float, or a scalar array on the host or on a device


class Mean(NamedTuple):
    """A weighted mean as its two sums, so that parts add up exactly.

    Add over microbatches, hosts and steps; divide once, at the end. A mean over nothing is 0.
    """

    total: Scalar
    count: Scalar

    @property
    def value(self) -> Scalar:
        """total / max(count, 1): finite for an empty batch."""
        return self.total / (self.count if self.count > 1 else 1)


@jax.tree_util.register_pytree_node_class
class Means(Mapping[str, Mean]):
    """Means by name, held as one array [2, n] of totals and counts: one transfer fetches all."""

    def __init__(self, names: tuple[str, ...], sums_2xn):
        self._names, self._sums_2xn = names, sums_2xn

    @classmethod
    def pack(cls, means: Mapping[str, Mean]) -> 'Means':
        sums = [[jnp.float32(mean[i]) for mean in means.values()] for i in (0, 1)]
        return cls(tuple(means), jnp.stack([jnp.stack(row) for row in sums]))

    def __getitem__(self, name: str) -> Mean:
        if name not in self._names:
            raise KeyError(name)
        return Mean(*self._sums_2xn[:, self._names.index(name)])

    def __iter__(self):
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def tree_flatten(self):
        return (self._sums_2xn,), self._names

    @classmethod
    def tree_unflatten(cls, names, children):
        return cls(names, *children)


def add(a: Mapping[str, Mean], b: Mapping[str, Mean]) -> dict[str, Mean]:
    """Adds two dictionaries of means; a name that only one has is kept as it is."""
    out = dict(a)
    for name, mean in b.items():
        old = out.get(name, Mean(0.0, 0.0))
        out[name] = Mean(old.total + mean.total, old.count + mean.count)
    return out


class Writer:
    """Appends metrics to `metrics.jsonl` (the source of truth), TensorBoard and optionally W&B.

    A line cut short by a kill is dropped: the resumed run writes it again. Values are floats;
    names look like `train/clm/loss`.
    """

    def __init__(self, folder: Path, *, wandb: bool = False):
        from tensorboardX import SummaryWriter  # TensorBoard files without TensorFlow

        folder.mkdir(parents=True, exist_ok=True)
        self._file = open_lines(folder / 'metrics.jsonl')
        self._board = SummaryWriter(str(folder / 'tensorboard'))
        self._wandb = _start_wandb(folder) if wandb else None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line; it is on its way to the disk when this returns."""
        values = {name: float(value) for name, value in values.items()}
        self._file.write(json.dumps({'step': step, 'time': round(time.time(), 3), **values}) + '\n')
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.log(values, step=step)

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._board.close()
        if self._wandb:
            self._wandb.finish()


class Silent:
    """The Writer of hosts that do not write."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


def open_lines(path: Path):
    """A text file to append lines to; an unfinished last line, left by a kill, is cut off."""
    if path.exists():
        whole = path.read_bytes().rfind(b'\n') + 1
        os.truncate(path, whole)
    return open(path, 'a', encoding='utf-8')


def _start_wandb(folder: Path):
    import wandb

    return wandb.init(dir=str(folder), name=folder.name, resume='allow')


def load_metrics(path: Path) -> list[dict[str, Any]]:
    """One dict a step, in step order: its train and eval lines merged, later lines winning.

    A broken last line is what a killed run leaves and is ignored; any other raises RunError.
    """
    steps: dict[int, dict[str, Any]] = {}
    for line in read_lines(path):
        steps.setdefault(line['step'], {}).update(line)
    return [steps[step] for step in sorted(steps)]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, each with an integer `step`; see `load_metrics`."""
    lines = [
        (i, text) for i, text in enumerate(Path(path).read_bytes().split(b'\n'), 1) if text.strip()
    ]
    rows = []
    for i, text in lines:
        try:
            row = json.loads(text)
        except ValueError as error:
            if i == lines[-1][0]:
                break
            raise RunError(f'{path}, line {i}: not JSON ({error}); mend or delete it') from error
        if not isinstance(row, dict) or type(row.get('step')) is not int:
            raise RunError(f'{path}, line {i}: not an object with an integer "step"; delete it')
        rows.append(row)
    return rows
