"""Where every array of a run would lie: axes, mesh axes and bytes per device, without devices."""
# SPDX-License-Identifier: Apache-2.0

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from t5x_lite import sharding, step
from t5x_lite.experiment import Experiment


class Row(NamedTuple):
    """One array: its path, shape, logical axes (None: of an optimizer), spec, bytes per device."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    axes: tuple | None
    spec: PartitionSpec
    bytes: int


def abstract_mesh(experiment: Experiment, devices: int) -> AbstractMesh:
    """The experiment's mesh over that many devices, none of which needs to be there.

    Raises:
      ConfigError: mesh or batches do not divide over them.
    """
    experiment.check_devices(devices)
    sizes = experiment.mesh.resolve(devices)
    return AbstractMesh(sizes, sharding.AXES, axis_types=(AxisType.Auto,) * len(sizes))


def rows(experiment: Experiment, mesh) -> Iterator[Row]:
    """All arrays of the TrainState, parameters first."""
    shapes = jax.eval_shape(lambda: step.init_state(experiment))
    axes = {
        '/'.join(map(str, path)): param.get_metadata().get('axes')
        for path, param in nnx.to_flat_state(nnx.state(step.abstract_model(experiment)))
    }
    where = jax.tree.leaves(step.state_shardings(experiment, mesh))
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    found = []
    for (path, array), named in zip(leaves, where, strict=True):
        part = jax.tree_util.keystr(path[:1], simple=True)
        name = jax.tree_util.keystr(path[1:], simple=True, separator='/')
        own = axes.get(name) if part == 'params' else None
        if own is not None:
            own = ('layers',) * (array.ndim - len(own)) + tuple(own)
        size = math.prod(named.shard_shape(array.shape)) * array.dtype.itemsize
        full = name if part == 'params' else f'{part}/{name}'.rstrip('/')
        found.append(Row(full, array.shape, array.dtype.name, own, named.spec, size))
    return iter(sorted(found, key=lambda row: row.path.startswith(('opt_state', 'step'))))


def lines(experiment: Experiment, devices: int) -> Iterator[str]:
    """The table for people: mesh, one line for each array, sums of bytes per device."""
    mesh = abstract_mesh(experiment, devices)
    yield f'mesh: {sharding.shown(mesh.shape)}; {devices:,} devices'
    found = list(rows(experiment, mesh))
    cells = [('array', 'shape', 'axes', 'spec', 'bytes per device')]
    for row in found:
        axes = '' if row.axes is None else ', '.join(str(axis or '-') for axis in row.axes)
        shape = ' x '.join(map(str, row.shape)) or 'scalar'
        rest = (None,) * (len(row.shape) - len(row.spec))
        spec = ', '.join(_named(part) for part in (*row.spec, *rest))
        cells.append((row.path, shape, axes, spec, f'{row.bytes:,}'))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for *texts, last in cells:
        padded = [text.ljust(width) for text, width in zip(texts, widths, strict=False)]
        yield '  '.join([*padded, last.rjust(widths[-1])]).rstrip()
    for name, of_optimizer in (('parameters', False), ('optimizer', True)):
        parts = [r.bytes for r in found if r.path.startswith(('opt_state', 'step')) == of_optimizer]
        yield f'{name}: {sum(parts):,} bytes per device'


def _named(part) -> str:
    """One dimension's mesh axes, '-' for none."""
    return '-' if part is None else part if isinstance(part, str) else '*'.join(part)
