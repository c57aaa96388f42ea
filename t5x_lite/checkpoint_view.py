"""A look at checkpoints: which there are, what is in one, in what two differ."""
# SPDX-License-Identifier: Apache-2.0

import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from t5x_lite import checkpoint
from t5x_lite.errors import ConfigError, RunError, nearest


def listed(run: Path) -> Iterator[str]:
    """A line for each step that is whole: number, time, size on disk; and what was set aside."""
    folder = run / 'checkpoints'
    if not folder.is_dir():
        raise RunError(f'{folder}: there are no checkpoints')
    entries = sorted(folder.iterdir(), key=lambda p: (not p.name.isdigit(), p.name.zfill(12)))
    for path in entries:
        if path.is_dir():
            size = sum(file.stat().st_size for file in path.rglob('*') if file.is_file())
            when = time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(path.stat().st_mtime))
            whole = '' if path.name.isdigit() else '  (not whole, never read)'
            yield f'{path.name:>12}  {when}  {size / 1e6:12,.1f} MB{whole}'


def shown(run: Path, step: int | None = None) -> Iterator[str]:
    """Every parameter of a step with its shape, type, norm and largest value; their number."""
    folder = run / 'checkpoints'
    found, shapes = checkpoint.saved_shapes(folder, step)
    yield f'{run}, step {found}'
    width, total = max(map(len, shapes)), 0
    for path in sorted(shapes):
        x, dtype = _read(folder, found, path)
        total += x.size
        numbers = f'norm {np.linalg.norm(x):.6g}  largest {np.abs(x).max(initial=0.0):.4g}'
        broken = x.size - int(np.isfinite(x).sum())
        numbers += f'  {broken:,} NOT FINITE' if broken else ''
        yield f'{path:{width}}  {" x ".join(map(str, x.shape)) or "scalar"}  {dtype}  {numbers}'
    yield f'parameters: {total:,}'


def difference(a: Path, b: Path) -> Iterator[str]:
    """In what the parameters of RUN or RUN@STEP differ: paths, shapes, values.

    Values: the largest difference, and the norm of the difference over that of `a`.
    """
    (folder_a, step_a, shapes_a), (folder_b, step_b, shapes_b) = _opened(a), _opened(b)
    yield f'a: {folder_a.parent}, step {step_a}'
    yield f'b: {folder_b.parent}, step {step_b}'
    for name, own, other in (('a', shapes_a, shapes_b), ('b', shapes_b, shapes_a)):
        for path in sorted(own.keys() - other.keys()):
            yield f'only in {name}: {path} {list(own[path])}; {nearest(path, other)}'
    equal = 0
    for path in sorted(shapes_a.keys() & shapes_b.keys()):
        if shapes_a[path] != shapes_b[path]:
            yield f'shapes: {path} {list(shapes_a[path])} and {list(shapes_b[path])}'
            continue
        x, y = _read(folder_a, step_a, path)[0], _read(folder_b, step_b, path)[0]
        if np.array_equal(x, y):
            equal += 1
        else:
            far, norm = np.abs(x - y).max(), np.linalg.norm(x - y) / max(np.linalg.norm(x), 1e-30)
            yield f'values: {path}  largest difference {far:.4g}, relative norm {norm:.4g}'
    yield f'bit-equal: {equal} arrays'


def _opened(named: Path):
    """(folder, step, {path: shape}) of RUN or RUN@STEP."""
    text, _, step = str(named).rpartition('@') if '@' in str(named) else (str(named), '', '')
    if step and not step.isdigit():
        raise ConfigError(f'ckpt diff: {named}: what follows @ must be a step; write RUN@100')
    folder = Path(text) / 'checkpoints'
    return folder, *checkpoint.saved_shapes(folder, int(step) if step else None)


def _read(folder: Path, step: int, path: str) -> tuple[np.ndarray, str]:
    """One array in the host's memory, in float32 or wider, and the type it is saved in."""
    host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend='cpu')[0])
    shape, dtype = checkpoint.saved_type(folder, step, path)
    like = {path: jax.ShapeDtypeStruct(shape, dtype, sharding=host)}
    x = np.asarray(checkpoint.read_arrays(folder, step, like)[path])
    return x.astype(np.promote_types(x.dtype, np.float32)), str(np.dtype(dtype))
