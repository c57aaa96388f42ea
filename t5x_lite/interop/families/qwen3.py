"""Qwen 3 (Yang et al. 2025) in transformers' files: Llama with an RMSNorm on queries and keys."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from typing import Any

from t5x_lite.errors import ConfigError
from t5x_lite.interop.families import llama
from t5x_lite.model.config import Local, ModelConfig


def to_model(fields: Mapping[str, Any]) -> ModelConfig:
    fields = {'head_dim': 128, **fields}
    return ModelConfig(**llama.shared(fields), qk_norm=True, local=_window(fields))


def _window(fields: Mapping[str, Any]) -> Local | None:
    """All layers with a window or none; transformers' window counts the token itself."""
    if not fields.get('use_sliding_window') or not fields.get('sliding_window'):
        return None
    kinds = set(fields.get('layer_types') or ())
    if kinds == {'full_attention'}:
        return None
    if kinds == {'sliding_attention'} or not kinds and fields.get('max_window_layers') == 0:
        return Local(reach=fields['sliding_window'] - 1)
    raise ConfigError(
        f'config.json: use_sliding_window=True with max_window_layers='
        f'{fields.get("max_window_layers")} has windows in some layers only, which is not known '
        'here; must be all layers or none'
    )


def to_fields(model: ModelConfig) -> dict[str, Any]:
    fields = llama.to_fields(model)
    if model.local is None:
        return fields | dict(use_sliding_window=False)
    layers = ['sliding_attention'] * model.decoder_layers
    window = dict(sliding_window=model.local.reach + 1, max_window_layers=0, layer_types=layers)
    return fields | dict(use_sliding_window=True) | window


FAMILY = llama.family('qwen3', 'Qwen3', to_model=to_model, to_fields=to_fields)
