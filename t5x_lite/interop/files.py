"""Safetensors files of a folder: read by slices, written one tensor at a time."""
# SPDX-License-Identifier: Apache-2.0

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  makes numpy know bfloat16
import numpy as np

from t5x_lite.errors import ConfigError

WHOLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
PICKLES = ('*.bin', '*.pt', '*.pth', '*.ckpt', '*.h5', '*.msgpack')
DTYPES = {'float32': 'F32', 'bfloat16': 'BF16', 'float16': 'F16'}
SHARD = 5 * 10**9  # bytes of one file at most


class Tensor(NamedTuple):
    """A tensor that is not in memory: its shape, and `read(index)` for a part of it."""

    shape: tuple[int, ...]
    read: Callable[[tuple[slice, ...]], np.ndarray]


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of `model.safetensors`, or of the files that its index names.

    Raises:
      ConfigError: no such files, pickles in their place, or a file that is damaged.
    """
    found = {}
    for file in _files(Path(folder)):
        found |= dict(_tensors(file))
    return found


def read_file(file: Path) -> dict[str, Tensor]:
    """All tensors of one file; ConfigError if it is missing or damaged."""
    if not file.is_file():
        raise ConfigError(f'{file}: there is no such file')
    return dict(_tensors(file))


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        what = 'is a file, not a folder' if folder.exists() else 'there is no such folder'
        raise ConfigError(f'{folder}: {what}; name the folder that holds {WHOLE}')
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if (folder / INDEX).is_file():
        named = read_json(folder / INDEX).get('weight_map')
        if not isinstance(named, dict):
            raise ConfigError(f'{folder / INDEX}: weight_map must be an object of file names')
        files = [folder / name for name in sorted(set(map(str, named.values())))]
        missing = [file.name for file in files if not file.is_file()]
        if missing or not files:
            shown = ', '.join(missing) or 'no files at all'
            raise ConfigError(f'{folder / INDEX}: names {shown}, which must lie beside it')
        return files
    pickles = sorted(file.name for kind in PICKLES for file in folder.glob(kind))
    if pickles:
        raise ConfigError(
            f'{folder / pickles[0]}: is not read, since unpickling runs code; convert it once with '
            'transformers, by the class that config.json names in `architectures` (AutoModel would '
            'drop the head): CLASS.from_pretrained(DIR).save_pretrained(NEW)'
        )
    raise ConfigError(f'{folder}: must hold {WHOLE} or {INDEX}, it has neither')


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    safe_open = safetensors_library().safe_open
    try:
        opened = safe_open(file, framework='np')
    except Exception as error:  # SafetensorError is raised under several names
        size = file.stat().st_size
        raise ConfigError(
            f'{file}: {size:,} bytes are no whole safetensors file ({error}); copy it again'
        ) from error
    for name in opened.keys():  # noqa: SIM118  not a dict
        part = opened.get_slice(name)
        if part.get_dtype() not in (*DTYPES.values(), 'F64'):
            continue  # positions and masks that were saved beside the weights
        read = lambda index, part=part: part[index] if index else part[:]
        yield name, Tensor(tuple(part.get_shape()), read)


def safetensors_library():
    """The module; ConfigError that says how to install it."""
    try:
        import safetensors
    except ImportError as error:
        raise ConfigError(
            f"safetensors cannot be imported ({error}); pip install 't5x_lite[hf]'"
        ) from error
    return safetensors


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; ConfigError if the file is not there or holds none."""
    try:
        value = json.loads(file.read_text(encoding='utf-8'))
    except FileNotFoundError as error:
        raise ConfigError(f'{file}: there is no such file') from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f'{file}: is no JSON ({error}); copy it again') from error
    if not isinstance(value, dict):
        raise ConfigError(f'{file}: must hold a JSON object, it has a {type(value).__name__}')
    return value


def write_folder(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], np.ndarray],
    *,
    dtype: str = 'float32',
    shard: int = SHARD,
) -> None:
    """Writes tensors, `read` one after the other, as transformers does: one file, or an index."""
    if dtype not in DTYPES:
        raise ConfigError(f'dtype={dtype!r} must be one of {", ".join(DTYPES)}')
    width = np.dtype(dtype).itemsize
    shards, room = [[]], shard
    for name, shape in shapes.items():
        size = width * int(np.prod(shape))
        if shards[-1] and size > room:
            shards.append([])
            room = shard
        shards[-1].append(name)
        room -= size
    if len(shards) == 1:
        return _write(folder / WHOLE, shards[0], shapes, read, dtype)
    weight_map, total = {}, 0
    for i, names in enumerate(shards):
        file = f'model-{i + 1:05}-of-{len(shards):05}.safetensors'
        _write(folder / file, names, shapes, read, dtype)
        weight_map |= dict.fromkeys(names, file)
        total += width * sum(int(np.prod(shapes[name])) for name in names)
    index = {'metadata': {'total_size': total}, 'weight_map': weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2), encoding='utf-8')


def _write(file: Path, names, shapes, read, dtype: str) -> None:
    """The safetensors format: length of the header, header, bytes in its order."""
    header, end = {'__metadata__': {'format': 'pt'}}, 0
    for name in names:
        begin, end = end, end + np.dtype(dtype).itemsize * int(np.prod(shapes[name]))
        offsets = {'shape': list(shapes[name]), 'data_offsets': [begin, end]}
        header[name] = {'dtype': DTYPES[dtype], **offsets}
    encoded = json.dumps(header).encode()
    encoded += b' ' * (-len(encoded) % 8)
    with open(file, 'wb') as out:
        out.write(struct.pack('<Q', len(encoded)) + encoded)
        for name in names:
            out.write(np.ascontiguousarray(read(name).astype(dtype)).tobytes())
