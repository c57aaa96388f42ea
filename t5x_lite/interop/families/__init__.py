"""Families of Hugging Face's transformers, one file each, named after `model_type`."""
# SPDX-License-Identifier: Apache-2.0

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from t5x_lite.errors import ConfigError, nearest
from t5x_lite.interop.names import Family


def known() -> list[str]:
    """The model types there is a file for."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(model_type: str) -> Family:
    """The family of that name; ConfigError names the nearest if there is none."""
    if model_type not in known():
        raise ConfigError(
            f'config.json: model_type={model_type!r} is no family known here; '
            f'{nearest(model_type, known())}'
        )
    return importlib.import_module(f'{__name__}.{model_type}').FAMILY


def of_fields(fields: Mapping[str, Any]) -> Family:
    """The family of a config.json; ConfigError if it does not say, or not in the usual form."""
    if not isinstance(fields.get('model_type'), str):
        raise ConfigError(
            'config.json: model_type is missing; add it, one of ' + ', '.join(known())
        )
    shapes = {'architectures': list, 'id2label': dict, 'num_labels': int}
    for name, kind in shapes.items():
        value = fields.get(name)
        if value is not None and type(value) is not kind:
            raise ConfigError(f'config.json: {name}={value!r} must be of type {kind.__name__}')
    return find(fields['model_type'])
