"""umT5 (Chung et al. 2023) in transformers' files: T5 1.1 with a relative bias in every layer."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from collections.abc import Mapping
from typing import Any

from t5x_lite.interop.families import t5
from t5x_lite.model.config import ModelConfig


def to_model(fields: Mapping[str, Any]) -> ModelConfig:
    model = t5.to_model(fields)
    positions = dataclasses.replace(model.positions, per_layer=True)
    return dataclasses.replace(model, positions=positions)


FAMILY = t5.family('umt5', 'UMT5', to_model=to_model)
