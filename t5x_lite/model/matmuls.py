"""What a layer's products with its weights are computed in: floating point, int8 or fp8."""
# SPDX-License-Identifier: Apache-2.0
# A value has `product(rows, kernel, scale)`. qwix is imported where it is needed.

import importlib.util
from dataclasses import dataclass

from t5x_lite.errors import ConfigError


@dataclass(frozen=True)
class Float:
    """Products in the compute type."""

    def product(self, rows_RxI, kernel_IxO, scale_O=None):
        """rows W, [R, O] in the type of the rows; W is the kernel, times its scale if any."""
        y_RxO = rows_RxI @ kernel_IxO.astype(rows_RxI.dtype)
        return y_RxO if scale_O is None else y_RxO * scale_O.astype(rows_RxI.dtype)[None]


class _Quantised:
    """Products of rounded numbers, added up exactly (int8) or in float32 (fp8), through qwix.

    Rows and columns of W have a scale each: the largest is the largest number of the type. In the
    backward pass the incoming gradient is rounded too, row by row, where it is multiplied by the
    rounded W; the gradient of W is made in the compute type, from the rounded rows. Rounding counts
    as the identity (Bengio et al. 2013). Weights stay float32.

    Raises:
      ConfigError: qwix is not installed; when the step is traced.
    """

    def product(self, rows_RxI, kernel_IxO, scale_O=None):
        if importlib.util.find_spec('qwix') is None:
            raise ConfigError(
                f"ModelConfig: matmul={self} needs qwix; pip install 't5x_lite[quantised]', or set "
                'matmul=Float()'
            )
        from t5x_lite.model import rounded

        kernel_IxO = kernel_IxO if scale_O is None else kernel_IxO * scale_O[None]
        return rounded.product(self, rows_RxI, kernel_IxO)


@dataclass(frozen=True)
class Int8(_Quantised):
    """Products of 8-bit integers: twice bfloat16's peak rate on TPU v5e, v5p, v6e (Google)."""

    forward = backward = 'int8'


@dataclass(frozen=True)
class Fp8(_Quantised):
    """Products of 8-bit floats: E4M3 forward, E5M2 for gradients (Micikevicius et al. 2022).

    Fast on NVIDIA's Hopper and later; other devices convert first, as CPUs do.
    """

    forward, backward = 'float8_e4m3fn', 'float8_e5m2'


def check(value) -> None:
    """ConfigError unless it is one of these."""
    if not hasattr(value, 'product'):
        raise ConfigError(f'ModelConfig: matmul={value!r} must be Float(), Int8() or Fp8()')
