"""Fields of config.json that several families share, read and written."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from typing import Any

import numpy as np

from t5x_lite.errors import ConfigError, nearest
from t5x_lite.model import activations
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.inits import Normal
from t5x_lite.model.positions import Llama3Scaling, Rope

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


def settle_output(fields, tensors, output: str, table: str):
    """(fields, tensors) with tie_word_embeddings as the tensors say, as transformers does.

    An architecture without an output matrix is tied; one that names itself tied and has a matrix
    of its own is not; a copy of the table is left out. `output` and `table` end the names.
    """
    find = lambda end: next((n for n in tensors if n == end or n.endswith('.' + end)), None)
    output, table = find(output), find(table)
    named = (fields.get('architectures') or [''])[0]
    # A language model that says it is not tied must have its matrix: it is then named as missing.
    needed = str(named).endswith(('ForCausalLM', 'ForConditionalGeneration'))
    tied = output is None and not (needed and fields.get('tie_word_embeddings') is False)
    if output and table and fields.get('tie_word_embeddings') is not False:
        tied = same(tensors[output], tensors[table])
    kept = {name: x for name, x in tensors.items() if not (tied and name == output)}
    return {**fields, 'tie_word_embeddings': tied}, kept


def same(a, b, rows: int = 4096) -> bool:
    """Two tensors of a file hold the same values; read some rows at a time."""
    if a.shape != b.shape:
        return False
    parts = ((slice(i, min(i + rows, a.shape[0])),) for i in range(0, a.shape[0], rows))
    return all(np.array_equal(a.read(part), b.read(part)) for part in parts)


def rope(fields: Mapping[str, Any], default: float = 10_000.0) -> Rope:
    """Rotary positions; ConfigError for a scaling there is nothing for."""
    given = fields.get('rope_parameters') or fields.get('rope_scaling') or {}
    base = given.get('rope_theta') or fields.get('rope_theta') or default
    refuse_others({**fields, **given}, partial_rotary_factor=(1.0,))
    kind = given.get('rope_type') or given.get('type') or 'default'
    refuse_others({'rope_type': kind}, rope_type=('default', 'llama3'))
    if kind == 'default':
        return Rope(base=float(base))
    scaling = Llama3Scaling(
        factor=need(given, 'factor'),
        low=need(given, 'low_freq_factor'),
        high=need(given, 'high_freq_factor'),
        length=need(given, 'original_max_position_embeddings'),
    )
    return Rope(base=float(base), scaling=scaling)


def rope_fields(positions: Rope) -> dict[str, Any]:
    """The fields that `rope` reads; rope_theta and rope_scaling are for transformers before 5."""
    given, scaling = dict(rope_type='default', rope_theta=positions.base), positions.scaling
    if scaling is None:
        return dict(rope_parameters=given, rope_theta=positions.base)
    own = dict(
        rope_type='llama3',
        factor=scaling.factor,
        low_freq_factor=scaling.low,
        high_freq_factor=scaling.high,
        original_max_position_embeddings=scaling.length,
    )
    return dict(
        rope_parameters=given | own,
        rope_theta=positions.base,
        rope_scaling=own,
        max_position_embeddings=int(scaling.length * scaling.factor),
    )
