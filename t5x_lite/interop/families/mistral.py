"""Mistral (Jiang et al. 2023) in transformers' files: Llama with a window in every layer."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from typing import Any

from t5x_lite.interop.families import llama
from t5x_lite.model.config import Local, ModelConfig


def to_model(fields: Mapping[str, Any]) -> ModelConfig:
    """A window of `sliding_window` tokens counts the token itself."""
    window = fields.get('sliding_window', 4096)
    local = None if window is None else Local(reach=window - 1)
    return ModelConfig(**llama.shared({'num_key_value_heads': 8, **fields}), local=local)


def to_fields(model: ModelConfig) -> dict[str, Any]:
    window = None if model.local is None else model.local.reach + 1
    return llama.to_fields(model) | dict(sliding_window=window)


FAMILY = llama.family(
    'mistral', 'Mistral', span_prefix='model.', to_model=to_model, to_fields=to_fields
)
