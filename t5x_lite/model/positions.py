"""Where tokens are: none, learned, rotary, T5 relative, as values with one protocol."""
# SPDX-License-Identifier: Apache-2.0

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp

from t5x_lite.errors import ConfigError

# The methods that make weights import the layers themselves: reading a config stays fast.


@dataclass(frozen=True)
class NoPositions:
    """Knows nothing of order; the other kinds override what they need.

    `weights(config, rngs)` makes a stack's own parameters (each layer's own if `per_layer`), handed
    back to `embed` and `bias`.
    """

    max_length = None  # the longest row that works, None for any
    per_layer = False
    reads_positions = False  # whether tokens may stand at any place of the row, given positions

    @property
    def has_bias(self) -> bool:
        """Whether it adds a bias to attention scores."""
        return type(self).bias is not NoPositions.bias

    @property
    def has_table(self) -> bool:
        """Whether its bias is that of Relative: buckets of a table, known to a kernel."""
        return type(self).bias is Relative.bias

    @property
    def inside(self):
        """What of it acts inside the layers, beyond what it adds to the token embeddings."""
        return self

    def weights(self, config, rngs):
        return None

    def embed(self, weights, positions_BxL, dtype):
        """What is added to the token embeddings, [B, L, D], or None."""
        return None

    def rotate(self, x_BxHxLxK, positions_BxL, is_local=False):
        """Queries or keys, turned by their positions; `is_local` in a layer with a window."""
        return x_BxHxLxK

    def bias(self, weights, query_L, key_M, bidirectional: bool):
        """What is added to attention scores, [H, L, M], or None."""
        return None

    def table(self, weights):
        """What `bias` looks up by bucket, [buckets, H], for a kernel; None where it is no table."""
        return None


@dataclass(frozen=True)
class Learned(NoPositions):
    """A table of `length` vectors, added to the token embeddings (BERT, GPT-2).

    The table has `offset` more rows in front that are never looked up (RoBERTa and BART: 2).
    """

    length: int = 512
    offset: int = 0
    reads_positions = True

    @property
    def max_length(self) -> int:
        return self.length

    @property
    def inside(self):
        return NoPositions()

    def weights(self, config, rngs):
        from t5x_lite.model.layers import Embedding

        stddev = config.init.stddev('positions', config.embed, config)
        rows = self.length + self.offset
        return Embedding(rows, config.table, ('positions', 'embed'), stddev, rngs)

    def embed(self, weights, positions_BxL, dtype):
        return weights(positions_BxL + self.offset, dtype)


@dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Slower turns for rows longer than those trained on (Llama 3.1: Grattafiori et al. 2024).

    Frequencies with fewer than `low` turns in `length` tokens are divided by `factor`, those with
    more than `high` stay, those between move from one to the other.
    """

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    length: int = 8192

    def __post_init__(self):
        if not (self.factor >= 1 and 0 < self.low < self.high and self.length >= 1):
            raise ConfigError(
                f'Llama3Scaling: factor={self.factor} must be 1 or more, low={self.low} above 0 '
                f'and below high={self.high}, length={self.length} 1 or more'
            )

    def __call__(self, frequencies_K):
        turns_K = self.length * frequencies_K / (2 * math.pi)
        share_K = jnp.clip((turns_K - self.low) / (self.high - self.low), 0.0, 1.0)
        return frequencies_K * ((1 - share_K) / self.factor + share_K)


@dataclass(frozen=True)
class Rope(NoPositions):
    """Rotary positions (Su et al. 2021), the halves of a head turned against each other.

    `local_base` is the base in layers with a window (ModernBERT), None for the same; `scaling`
    changes the frequencies, a function [K / 2] -> [K / 2] such as Llama3Scaling().
    """

    base: float = 10_000.0
    local_base: float | None = None
    scaling: Callable | None = None
    reads_positions = True

    def rotate(self, x_BxHxLxK, positions_BxL, is_local=False):
        half, base = x_BxHxLxK.shape[-1] // 2, self.base
        if self.local_base is not None:
            base = jnp.where(is_local, self.local_base, base)
        frequencies_K = base ** -(jnp.arange(half, dtype=jnp.float32) / half)
        if self.scaling is not None:
            frequencies_K = self.scaling(frequencies_K)
        angles_BxLxK = positions_BxL[..., None].astype(jnp.float32) * frequencies_K[None, None]
        cos, sin = jnp.cos(angles_BxLxK)[:, None], jnp.sin(angles_BxLxK)[:, None]
        a, b = jnp.split(x_BxHxLxK.astype(jnp.float32), 2, axis=-1)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x_BxHxLxK.dtype)


@dataclass(frozen=True)
class Relative(NoPositions):
    """T5's bias by bucketed distance (Raffel et al. 2020, section 2.1).

    One table per stack, or with `per_layer` one per layer (umT5: Chung et al. 2023).
    """

    buckets: int = 32
    max_distance: int = 128
    per_layer: bool = False

    def weights(self, config, rngs):
        from t5x_lite.model.layers import RelativeBias

        return RelativeBias(self.buckets, config, rngs)

    def bias(self, weights, query_L, key_M, bidirectional: bool):
        distance_LxM = key_M[None, :] - query_L[:, None]
        return weights(self.bucket(distance_LxM, bidirectional))

    def table(self, weights):
        return weights.relative_bias[...]

    def bucket(self, distance, bidirectional: bool):
        """Bucket of key position - query position: half exact, half logarithmic to max_distance."""
        buckets, first = self.buckets, 0
        if bidirectional:
            buckets //= 2
            first = jnp.where(distance > 0, buckets, 0)
            distance = jnp.abs(distance)
        else:
            distance = jnp.maximum(-distance, 0)
        exact = buckets // 2
        ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact)
        far = exact + (ratio / math.log(self.max_distance / exact) * (buckets - exact)).astype(int)
        return first + jnp.where(distance < exact, distance, jnp.minimum(far, buckets - 1))
