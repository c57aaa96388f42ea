"""Moves weights between a model's arrays and named tensors, a slice at a time."""
# SPDX-License-Identifier: Apache-2.0

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np

from t5x_lite.errors import ConfigError
from t5x_lite.interop.files import Tensor
from t5x_lite.interop.names import Weight

SHOWN = 12  # names in a message


class Plan(NamedTuple):
    """What will be read: our path to its weight; our paths that stay as they are; names unread."""

    loaded: dict[str, Weight]
    fresh: list[str]
    unread: list[str]


def rename(
    tensors: Mapping[str, Tensor], prefix: str, renamed, ignored: Iterable[str]
) -> dict[str, Tensor]:
    """The tensors by the names that tables use: no prefix, no old names, no buffers.

    Heads keep their names whole, so the prefix is put back where a table has it.
    """
    found, copies = {}, {}
    for old, tensor in tensors.items():
        name = old
        for pattern, new in renamed:
            name = re.sub(pattern, new, name)
        short = name.removeprefix(prefix)
        if not any(re.search(p, name) or re.search(p, short) for p in ignored):
            (found if name == old else copies)[short] = tensor
    return copies | found


def plan(
    weights: Iterable[Weight], shapes: Mapping[str, tuple[int, ...]], tensors, vocab: int
) -> Plan:
    """Checks that every weight has a tensor of its shape, before anything is read.

    Args:
      weights: of the trunk and of those heads that the file has.
      shapes: of our arrays by path.
      tensors: by the names of the weights.
      vocab: how many rows of a table by ids must be there.

    Raises:
      ConfigError: tensors that are missing or do not fit, all of them in one message.
    """
    loaded, wrong, used = {}, [], set()
    for weight in weights:
        if weight.path not in shapes:
            wrong.append(f'{weight.name}: the model has no {weight.path}')
            continue
        loaded[weight.path] = weight
        for name, shape in _names(weight, shapes[weight.path]):
            if name not in used:  # once for all parts of a tensor
                wrong += _misfit(weight, name, shape, tensors.get(name), vocab)
            used.add(name)
    if wrong:
        more = f'\n  and {len(wrong) - SHOWN} more' if len(wrong) > SHOWN else ''
        shown = '\n  '.join(wrong[:SHOWN])
        raise ConfigError(f'{len(wrong)} tensors do not fit the model:\n  {shown}{more}')
    fresh = sorted(shapes.keys() - loaded.keys())
    return Plan(loaded, fresh, sorted(tensors.keys() - used))


def _names(weight: Weight, shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of a weight, and the shape of our part of each."""
    if '{}' not in weight.name:
        yield weight.name, tuple(shape)
        return
    for layer in range(shape[0]):
        if layer not in weight.absent:
            yield weight.name.format(layer), tuple(shape[1:])


def _misfit(weight: Weight, name: str, shape, tensor: Tensor | None, vocab: int) -> list[str]:
    wanted = _file_shape(weight, shape)
    if tensor is None:
        return [f'{name} is missing; {weight.path} needs it, {list(wanted)}']
    rows = False
    if weight.vocab:
        own, found = _as_ours(weight, wanted), _as_ours(weight, tensor.shape)
        rows = found[1:] == own[1:] and found[0] >= vocab
    if tensor.shape == wanted or rows:
        return []
    least = f' (at least {vocab} rows)' if weight.vocab else ''
    found = list(tensor.shape)
    return [f'{name} is {found} in the file; {weight.path} needs {list(wanted)}{least}']


def _file_shape(weight: Weight, shape) -> tuple[int, ...]:
    return _as_ours(weight, (*shape[:-1], shape[-1] * weight.part[1]))


def _as_ours(weight: Weight, shape) -> tuple[int, ...]:
    return shape[::-1] if weight.transposed else shape


def read(weight: Weight, tensors, shape, index: tuple[slice, ...]) -> np.ndarray:
    """The part `index` of our array of that shape, float32; rows the file lacks are 0."""
    ranges = [range(*part.indices(size)) for part, size in zip(index, shape, strict=True)]
    out = np.zeros([len(r) for r in ranges], np.float32)
    if '{}' not in weight.name:
        _read_into(out, weight, tensors[weight.name], shape, ranges)
        return out
    for i, layer in enumerate(ranges[0]):
        if layer in weight.absent:
            out[i] = 1.0
        else:
            tensor = tensors[weight.name.format(layer)]
            _read_into(out[i], weight, tensor, shape[1:], ranges[1:])
    return out


def _read_into(out, weight: Weight, tensor: Tensor, shape, ranges) -> None:
    slices = [slice(r.start, r.stop) for r in ranges]
    shift = weight.part[0] * shape[-1]
    slices[-1] = slice(slices[-1].start + shift, slices[-1].stop + shift)
    if weight.vocab:
        rows = _as_ours(weight, tensor.shape)[0]
        slices[0] = slice(slices[0].start, min(slices[0].stop, rows))
        out = out[: max(0, slices[0].stop - slices[0].start)]
    if out.size:
        found = tensor.read(tuple(slices[::-1] if weight.transposed else slices))
        out[...] = found.T if weight.transposed else found


def load(loaded: Mapping[str, Weight], tensors, like: Mapping[str, jax.Array]) -> Iterator:
    """(path, array) of each weight, placed as `like[path]` (an array or its shape) is placed."""
    for path, weight in loaded.items():
        shape, where = like[path].shape, like[path].sharding
        take = lambda index, weight=weight, shape=shape: read(weight, tensors, shape, index)
        if where is None:
            whole = tuple(slice(None) for _ in shape)
            yield path, jax.numpy.asarray(take(whole))
        else:
            yield path, jax.make_array_from_callback(shape, where, take)


class Outgoing(NamedTuple):
    """Tensors to write: their shapes by name, and what gives one of them."""

    shapes: dict[str, tuple[int, ...]]
    read: object


def outgoing(weights: Iterable[Weight], arrays: Mapping[str, jax.Array], vocab: int) -> Outgoing:
    """The tensors of a model's arrays by the names of its weights, padding rows left out."""
    parts = defaultdict(dict)  # name -> k-th part -> (weight, layer or None)
    for weight in weights:
        if '{}' not in weight.name:
            parts[weight.name][weight.part[0]] = weight, None
            continue
        for layer in range(arrays[weight.path].shape[0]):
            if layer not in weight.absent:
                parts[weight.name.format(layer)][weight.part[0]] = weight, layer

    def value(weight: Weight, layer: int | None) -> np.ndarray:
        array = arrays[weight.path]
        array = np.asarray(array if layer is None else array[layer], np.float32)
        return array[:vocab] if weight.vocab else array

    def one(name: str) -> np.ndarray:
        pieces = [value(*parts[name][k]) for k in sorted(parts[name])]
        whole = np.concatenate(pieces, axis=-1) if len(pieces) > 1 else pieces[0]
        return whole.T if parts[name][0][0].transposed else whole

    shapes = {}
    for name, pieces in parts.items():
        weight, layer = pieces[0]
        shape = arrays[weight.path].shape[0 if layer is None else 1 :]
        shape = (min(shape[0], vocab), *shape[1:]) if weight.vocab else shape
        shapes[name] = _file_shape(weight, shape)
    return Outgoing(shapes, one)


def describe(plan: Plan, shapes: Mapping[str, tuple[int, ...]], tensors) -> str:
    """The table of what was loaded, what is new, what was left out."""
    size = lambda paths: sum(math.prod(shapes[path]) for path in paths)
    lines = [f'loaded {len(plan.loaded)} arrays, {size(plan.loaded):,} parameters']
    if plan.fresh:
        lines.append(f'new {len(plan.fresh)} arrays, {size(plan.fresh):,} parameters:')
        lines += [f'  {path} {list(shapes[path])}' for path in plan.fresh]
    for path, weight in plan.loaded.items():
        over = tensors[weight.name].shape[0] - shapes[path][0] if weight.vocab else 0
        if over > 0:
            lines.append(
                f'left out the last {over} rows of {weight.name}: the vocabulary has fewer'
            )
    if plan.unread:
        lines += [f'left out {len(plan.unread)} tensors of the file:']
        lines += [f'  {name}' for name in plan.unread]
    return '\n'.join(lines)
