"""A matrix product of rounded numbers, and its gradients (the values of `matmuls.py`)."""
# SPDX-License-Identifier: Apache-2.0

import functools

import jax
import jax.numpy as jnp
import qwix

ACROSS = ((1,), (0,)), ((), ())  # RI,IO->RO
BACK = ((1,), (1,)), ((), ())  # RO,IO->RI
DOWN = ((0,), (0,)), ((), ())  # RI,RO->IO


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def product(kind, rows_RxI, kernel_IxO):
    """rows W, [R, O] in the type of the rows, W in float32; `kind` names the types to round to."""
    return _forward(kind, rows_RxI, kernel_IxO)[0]


def _forward(kind, rows_RxI, kernel_IxO):
    rows = _rounded(rows_RxI, kind.forward, 0)
    kernel = _rounded(kernel_IxO, kind.forward, 1)
    y_RxO = qwix.dot_general(rows, kernel, ACROSS).astype(rows_RxI.dtype)
    return y_RxO, (rows, kernel_IxO)


def _backward(kind, kept, grad_RxO):
    rows, kernel_IxO = kept
    dtype = grad_RxO.dtype
    kernel = _rounded(kernel_IxO, kind.forward, 1)  # again: a copy of all layers would be kept
    # W's scales belong to the dimension that is summed over here: they go into the gradient.
    scaled = _rounded(grad_RxO.astype(jnp.float32) * kernel.scale, kind.backward, 0)
    of_rows_RxI = qwix.dot_general(scaled, kernel.qvalue, BACK).astype(dtype)
    rows_RxI = rows.qvalue.astype(dtype) * rows.scale.astype(dtype)
    of_kernel_IxO = jax.lax.dot_general(
        rows_RxI, grad_RxO, DOWN, preferred_element_type=jnp.float32
    )
    return of_rows_RxI, of_kernel_IxO


product.defvjp(_forward, _backward)


def _rounded(x, dtype: str, axis: int):
    """x with a scale for each index of the axis; scales are float32."""
    return qwix.quantize(x.astype(jnp.float32), jnp.dtype(dtype), channelwise_axes=(axis,))
