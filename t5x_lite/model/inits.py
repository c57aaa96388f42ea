"""Initial standard deviations as values: one number for all (BERT, GPT-2), or by fan-in (T5)."""
# SPDX-License-Identifier: Apache-2.0

from dataclasses import dataclass

# What a weight is for: 'embedding', 'positions', 'relative_bias', 'query', 'residual' (the last
# matrix of a block's branch) or 'linear' (any other).


@dataclass(frozen=True)
class Normal:
    """N(0, std^2) everywhere; `residual` / sqrt(2 * layers) as in GPT-2 if `scale_residual`.

    `positions` is the standard deviation of learned positions, None for the same (GPT-2: 0.01).
    """

    std: float = 0.02
    scale_residual: bool = False
    positions: float | None = None

    def stddev(self, role: str, fan_in: int, config) -> float:
        if role == 'positions' and self.positions is not None:
            return self.positions
        if role == 'residual' and self.scale_residual:
            return self.std / (2 * max(config.encoder_layers, config.decoder_layers)) ** 0.5
        return self.std


@dataclass(frozen=True)
class FanIn:
    """fan_in^-1/2 for matrices and `embedding` for tables (T5: 1.0; Raffel et al. 2020).

    Where attention is not scaled, queries carry its kv^-1/2, as in Mesh TensorFlow.
    """

    embedding: float = 1.0

    def stddev(self, role: str, fan_in: int, config) -> float:
        if role in ('embedding', 'positions'):
            return self.embedding
        if role == 'relative_bias':
            return config.embed**-0.5
        if role == 'query' and not config.scale_attention:
            return (fan_in * config.kv) ** -0.5
        return fan_in**-0.5
