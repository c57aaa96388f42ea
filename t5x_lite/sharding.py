"""Where arrays live: the mesh, one table from logical axes to mesh axes, and its application."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import contextvars
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental.mesh_utils import create_hybrid_device_mesh
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from t5x_lite.errors import ConfigError, nearest

AXES = ('replica', 'data', 'fsdp', 'context', 'model')  # from the slowest links to the fastest
RULES = {
    'batch': ('replica', 'data', 'fsdp'),
    'embed': 'fsdp',
    'heads': 'model',
    'mlp': 'model',
    'vocab': 'model',
    'kv': None,
    'length': 'context',
    'positions': None,
    'layers': None,
    'rank': None,
}


@dataclass(frozen=True, kw_only=True)
class MeshShape:
    """Devices along each mesh axis; -1 (at most one) takes what the others leave.

    replica: copies of the model on slices of a pod, joined by the data center's network; data:
    copies of the model; fsdp: parameters split, batch too; context: tokens of a row split, for long
    rows; model: tensor parallel.
    """

    replica: int = 1
    data: int = -1
    fsdp: int = 1
    context: int = 1
    model: int = 1

    def __post_init__(self):
        sizes = self.sizes
        if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
            raise ConfigError(
                f'MeshShape: {self.shown} must be 1 or more, with at most one -1 for the rest; try '
                'MeshShape(data=-1)'
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """In the order of AXES."""
        return tuple(getattr(self, axis) for axis in AXES)

    @property
    def shown(self) -> str:
        return shown(dict(zip(AXES, self.sizes, strict=True)))

    def resolve(self, devices: int) -> tuple[int, ...]:
        """The sizes with -1 worked out for that many devices; ConfigError if they do not fit."""
        fixed = math.prod(size for size in self.sizes if size > 0)
        rest, over = divmod(devices, fixed)
        if over or rest == 0 or (-1 not in self.sizes and rest != 1):
            raise ConfigError(
                f'Experiment: mesh {self.shown} needs '
                f'{"a multiple of " if -1 in self.sizes else ""}{fixed} devices, there are '
                f'{devices}; try data=-1 with the product of the others dividing {devices}'
            )
        return tuple(rest if size == -1 else size for size in self.sizes)


def shown(sizes: Mapping[str, int]) -> str:
    """`data=4, fsdp=2, model=1`; axes that few runs have are left out where they are 1."""
    usual = ('data', 'fsdp', 'model')
    return ', '.join(f'{axis}={n}' for axis, n in sizes.items() if n != 1 or axis in usual)


def make_mesh(shape: MeshShape = MeshShape(), devices=None) -> Mesh:
    """A mesh over all devices, or those given; on several slices `replica` is what crosses them.

    Raises:
      ConfigError: sizes that do not fit the devices, or a TPU's slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes, types = shape.resolve(len(devices)), (AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, 'slice_index', None) for device in devices})
    if slices > 1 and sizes[0] % slices == 0:
        within, across = (sizes[0] // slices, *sizes[1:]), (slices, *[1] * (len(AXES) - 1))
        return Mesh(create_hybrid_device_mesh(within, across, devices), AXES, axis_types=types)
    if slices > 1 and devices[0].platform == 'tpu':
        raise ConfigError(
            f'Experiment: mesh {shape.shown}, but the devices are {slices} slices of '
            f'{len(devices) // slices}, which only the axis replica may cross; set '
            f'mesh.replica={slices}'
        )
    if devices == list(jax.devices()):
        return jax.make_mesh(sizes, AXES, axis_types=types)
    return Mesh(np.array(devices).reshape(sizes), AXES, axis_types=types)


def spec(axes: tuple, rules: Mapping = RULES) -> PartitionSpec:
    """The PartitionSpec of logical axes; a mesh axis that an earlier dimension took is left out."""
    used, parts = set(), []
    for axis in axes:
        if axis is not None and axis not in rules:
            raise ConfigError(f'sharding: axis {axis!r} has no rule; {nearest(axis, rules)}')
        target = rules.get(axis)
        names = [target] if isinstance(target, str) else list(target or ())
        names = tuple(name for name in names if name not in used)
        used.update(names)
        parts.append(names[0] if len(names) == 1 else names or None)
    return PartitionSpec(*parts)


def shardings(model, mesh: Mesh, rules: Mapping = RULES) -> dict:
    """A tree of NamedShardings like the model's parameters, from the axes each one declares.

    Dimensions in front of the declared ones are stacked layers. ConfigError if an array does not
    divide over its mesh axes: names array, axis, size.
    """
    from flax import nnx

    flat = nnx.to_flat_state(nnx.state(model))
    out = {}
    for path, param in flat:
        axes = param.get_metadata().get('axes') or (None,) * len(param.shape)
        axes = ('layers',) * (len(param.shape) - len(axes)) + tuple(axes)
        named = NamedSharding(mesh, spec(axes, rules))
        units = param.get_metadata().get('units') or param.shape
        _check_divides('/'.join(map(str, path)), units[-len(axes) :], axes, named)
        out[path] = named
    return nnx.to_pure_dict(nnx.from_flat_state(out))


def _check_divides(name: str, units, axes, named: NamedSharding) -> None:
    declared = list(zip(reversed(units), reversed(axes), reversed(named.spec), strict=False))
    for size, axis, part in declared:
        names = (part,) if isinstance(part, str) else part or ()
        ways = math.prod(named.mesh.shape[n] for n in names)
        if size % ways:
            fix = f'try {axis}={-(-size // ways) * ways}'
            if axis == 'vocab':
                fix = f'set model.vocab_multiple={math.lcm(128, ways)}'
            raise ConfigError(
                f'sharding: {name} has {axis}={size}, which must divide over '
                f'{"*".join(names)}={ways}; {fix}'
            )


def whole(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def like_params(tree, params, where, mesh: Mesh):
    """Shardings for an optimizer's state: an array lies like the parameter whose path ends its own.

    A factored moment, which lacks dimensions of its parameter, keeps those it has; what belongs to
    no parameter is copied everywhere. `params` are shapes, `where` their shardings.
    """
    known = {}
    for (path, shape), named in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(where), strict=True
    ):
        known[tuple(path)] = (shape.shape, named.spec)

    def place(path, leaf):
        for start in range(len(path)):
            if tuple(path[start:]) in known:
                return NamedSharding(mesh, _kept_dims(leaf.shape, *known[tuple(path[start:])]))
        return whole(mesh)

    return jax.tree_util.tree_map_with_path(place, tree)


def _kept_dims(shape, param_shape, param_spec) -> PartitionSpec:
    """The parts of a parameter's spec for the dimensions that `shape` still has, in order."""
    parts, dims = [], iter(zip(param_shape, param_spec, strict=True))
    for size in shape:
        part = next((part for dim, part in dims if dim == size), 'absent')
        if part == 'absent':
            return PartitionSpec()
        parts.append(part)
    return PartitionSpec(*parts)


_active = contextvars.ContextVar('mesh and rules', default=None)


@contextlib.contextmanager
def active(mesh: Mesh, rules: Mapping = RULES):
    """Inside it, `constrain` places activations on this mesh by these rules."""
    token = _active.set((mesh, rules))
    try:
        yield
    finally:
        _active.reset(token)


def constrain(x, *axes):
    """x, kept sharded by its logical axes inside `active`; x itself outside."""
    if _active.get() is None:
        return x
    mesh, rules = _active.get()
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec(axes, rules)))


def by_parts(function, axes, out):
    """`function`, inside `active` on each device's own part of its arguments.

    `axes` are the logical axes of each argument, `out` those of the result. It must need nothing of
    the other parts; a kernel that the compiler cannot split is called this way.
    """
    if _active.get() is None or _active.get()[0].size == 1:
        return function
    mesh, rules = _active.get()
    specs, own = tuple(spec(names, rules) for names in axes), spec(out, rules)
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=own, check_vma=False)


def is_active() -> bool:
    return _active.get() is not None


def mesh_platform() -> str | None:
    """Of the devices inside `active` (`cpu`, `gpu`, `tpu`); None where these are not known."""
    if _active.get() is None or isinstance(_active.get()[0], AbstractMesh):
        return None
    return _active.get()[0].devices.flat[0].platform


def platform() -> str:
    """`mesh_platform`, or that of the devices that jax would use."""
    return mesh_platform() or jax.default_backend()


def parts(axis: str) -> int:
    """Over how many devices a logical axis is split inside `active`; 1 outside."""
    if _active.get() is None:
        return 1
    mesh, rules = _active.get()
    names = rules.get(axis) or ()
    return math.prod(mesh.shape[name] for name in ((names,) if isinstance(names, str) else names))


def batch_sharding(mesh: Mesh, rules: Mapping = RULES) -> NamedSharding:
    """Arrays of a batch: rows split over the batch axes, the rest whole."""
    return NamedSharding(mesh, spec(('batch',), rules))


class Held(NamedTuple):
    """The part of a stream's batches that this host reads: data shards, and their rows."""

    shards: tuple[int, ...]
    row_R: np.ndarray  # numbers of rows in the global batch, ascending
    rows: int  # of the global batch

    def part(self, x: np.ndarray, index: tuple[slice, ...]) -> np.ndarray:
        """What a device gets, by its index in the global array, of this host's rows x."""
        wanted_R = np.arange(self.rows)[index[0]]
        return x[np.searchsorted(self.row_R, wanted_R)][:, *index[1:]]


def held(rows: int, data_shards: int, mesh: Mesh, rules: Mapping = RULES) -> Held:
    """The data shards that have rows on this host's devices: a device's rows need not be in a row.

    Of a batch of `rows` rows each shard makes an equal stretch, on any mesh the same.
    """
    where = batch_sharding(mesh, rules).addressable_devices_indices_map((rows,))
    wanted_R = np.unique(np.concatenate([np.arange(rows)[index] for index in where.values()]))
    each = rows // data_shards
    shards = np.unique(wanted_R // each)
    row_R = (shards[:, None] * each + np.arange(each)).reshape(-1)
    return Held(tuple(shards.tolist()), row_R, rows)


def put_batch(
    batch: Mapping[str, np.ndarray],
    mesh: Mesh,
    rules: Mapping = RULES,
    own: Held | None = None,
) -> dict:
    """A batch as global arrays on the mesh: each host gives the whole batch, or its `own` rows."""
    sharding = batch_sharding(mesh, rules)
    if jax.process_count() == 1:
        return jax.device_put(dict(batch), sharding)  # the same, in half the time
    return {name: _put(x, sharding, own) for name, x in batch.items()}


def _put(x: np.ndarray, sharding: NamedSharding, own: Held | None) -> jax.Array:
    if own is None:
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
    shape = own.rows, *x.shape[1:]
    return jax.make_array_from_callback(shape, sharding, lambda index: own.part(x, index))
