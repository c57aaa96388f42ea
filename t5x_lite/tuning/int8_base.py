"""A frozen base in a quarter of the memory: kernels as int8 with a scale for each output."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterator, Mapping
from typing import Any

KERNEL, SCALE = '/kernel', '/kernel_scale'
WHERE = '/blocks/'  # embeddings, norms, biases and heads stay float32

# jax and flax are imported where arrays are made: reading a config stays fast.


def kernels(paths) -> Iterator[str]:
    """Which of a model's arrays are kept as int8."""
    return (path for path in sorted(paths) if WHERE in f'/{path}' and path.endswith(KERNEL))


def quantised(kernel):
    """(int8 [..., in, out], float32 scale [..., out]): largest of a column is 127 scales.

    No weight is off by more than half a scale. A column of zeros has scale 1.
    """
    import jax.numpy as jnp

    largest = jnp.abs(kernel).max(axis=-2)
    scale = jnp.where(largest > 0, largest / 127, 1.0)
    return jnp.round(kernel / scale[..., None, :]).astype(jnp.int8), scale


def put(module) -> None:
    """Makes a fresh linear layer keep its kernel as int8."""
    from flax import nnx

    kernel = module.kernel
    axes, units = kernel.get_metadata()['axes'], kernel.get_metadata()['units']
    values, scale = quantised(kernel[...])
    module.kernel = nnx.Param(values, axes=axes, units=units)
    # The attribute was None, which nnx keeps as static.
    module.kernel_scale = nnx.data(nnx.Param(scale, axes=axes[1:], units=units[1:]))


def begun(params: Mapping[str, Any]) -> dict:
    """Parameters whose kernels were loaded as float32, with these as int8 and their scales."""
    import jax.numpy as jnp

    from t5x_lite import frozen

    leaves = frozen.flat(params)
    for path in kernels(leaves):
        if leaves[path].dtype != jnp.int8:
            place = path.removesuffix(KERNEL) + SCALE
            leaves[path], leaves[place] = quantised(leaves[path])
    return frozen.unflat(leaves)


def dequantised(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """{path: array} with kernels in float32 and without scales."""
    import jax.numpy as jnp

    out = {path: x for path, x in leaves.items() if not path.endswith(SCALE)}
    for path, scale in leaves.items():
        if path.endswith(SCALE):
            kernel = path.removesuffix(SCALE) + KERNEL
            out[kernel] = out[kernel].astype(jnp.float32) * scale[..., None, :]
    return out
