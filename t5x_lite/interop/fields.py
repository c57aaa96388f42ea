"""Fields of config.json that several families share, read and written."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from typing import Any

from t5x_lite.errors import ConfigError, nearest
from t5x_lite.model import activations
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.inits import Normal

ACTIVATIONS = {
    'gelu': activations.gelu,
    'gelu_new': activations.gelu_tanh,
    'gelu_pytorch_tanh': activations.gelu_tanh,
    'relu': activations.relu,
    'silu': activations.silu,
    'swish': activations.silu,
    'tanh': activations.tanh,
}


def need(fields: Mapping[str, Any], name: str):
    """A field that must be there; ConfigError names the nearest if it is not."""
    if fields.get(name) is None:
        raise ConfigError(f'config.json: {name} is missing; {nearest(name, fields)}')
    return fields[name]


def number(fields: Mapping[str, Any], name: str, default: int | float):
    """A number, an integer if its default is one; the default where it is absent or null."""
    value = fields.get(name)
    value = default if value is None else value
    kinds = (int,) if type(default) is int else (int, float)
    if type(value) not in kinds or value < 0:
        what = 'an integer' if kinds == (int,) else 'a number'
        raise ConfigError(f'config.json: {name}={value!r} must be {what} of 0 or more')
    return value


def refuse_others(fields: Mapping[str, Any], **known) -> None:
    """ConfigError if a field has a value that the model library has nothing for."""
    for name, values in known.items():
        value = fields.get(name, values[0])
        if value not in values and value is not None:
            shown = ' or '.join(map(repr, values))
            raise ConfigError(f'config.json: {name}={value!r} is not known here; must be {shown}')


def activation(name: str):
    """The activation function that transformers calls so."""
    if name not in ACTIVATIONS:
        raise ConfigError(
            f'config.json: activation {name!r} is not known here; {nearest(name, ACTIVATIONS)}'
        )
    return ACTIVATIONS[name]


def activation_name(function) -> str:
    """What transformers calls an activation function."""
    for name, value in ACTIVATIONS.items():
        if value is function:
            return name
    raise ConfigError(
        f'ModelConfig: activation={getattr(function, "__name__", function)} has no name in '
        'config.json; use one of model/activations.py'
    )


def encoder_sizes(fields: Mapping[str, Any]) -> dict[str, Any]:
    """ModelConfig's sizes of an encoder whose fields are called as BERT's."""
    return dict(
        vocab=need(fields, 'vocab_size'),
        embed=need(fields, 'hidden_size'),
        heads=need(fields, 'num_attention_heads'),
        mlp=need(fields, 'intermediate_size'),
        encoder_layers=need(fields, 'num_hidden_layers'),
        dropout=number(fields, 'hidden_dropout_prob', 0.0),
        init=Normal(std=number(fields, 'initializer_range', 0.02)),
    )


def encoder_fields(model: ModelConfig) -> dict[str, Any]:
    """The fields that `encoder_sizes` reads."""
    return dict(
        vocab_size=model.vocab,
        hidden_size=model.embed,
        num_attention_heads=model.heads,
        intermediate_size=model.mlp,
        num_hidden_layers=model.encoder_layers,
        hidden_dropout_prob=model.dropout,
        attention_probs_dropout_prob=model.dropout,
        initializer_range=getattr(model.init, 'std', 0.02),
    )


def special_ids(model: ModelConfig, **ids: int) -> dict[str, int | None]:
    """The published ids of special tokens; null those that the vocabulary is too small for."""
    return {name: value if value < model.vocab else None for name, value in ids.items()}
