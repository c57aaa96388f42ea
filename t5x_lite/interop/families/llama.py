"""Llama 1 to 3 (Touvron et al. 2023, Grattafiori et al. 2024) in transformers' files."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from t5x_lite.errors import ConfigError
from t5x_lite.interop import fields as f
from t5x_lite.interop.names import Family, HeadNames, Weight, linear, norm, output, table
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.heads import ClassifierHead
from t5x_lite.model.inits import Normal
from t5x_lite.model.norms import RMSNorm


def to_model(fields: Mapping[str, Any]) -> ModelConfig:
    return ModelConfig(**shared(fields))


def shared(fields: Mapping[str, Any]) -> dict[str, Any]:
    """ModelConfig's fields for Llama and its relatives."""
    f.refuse_others(fields, attention_bias=(False,), mlp_bias=(False,))
    embed, heads = f.need(fields, 'hidden_size'), f.need(fields, 'num_attention_heads')
    groups, kv = fields.get('num_key_value_heads'), fields.get('head_dim')
    return dict(
        vocab=f.need(fields, 'vocab_size'),
        embed=embed,
        heads=heads,
        kv_heads=None if groups == heads else groups,
        head_size=None if kv is not None and kv * heads == embed else kv,
        mlp=f.need(fields, 'intermediate_size'),
        decoder_layers=f.need(fields, 'num_hidden_layers'),
        positions=f.rope(fields),
        norm=RMSNorm(eps=fields.get('rms_norm_eps', 1e-6)),
        activation=f.activation(fields.get('hidden_act', 'silu')),
        gated=True,
        tied=fields.get('tie_word_embeddings', False),
        init=Normal(std=fields.get('initializer_range', 0.02)),
    )


def to_fields(model: ModelConfig) -> dict[str, Any]:
    if model.encoder_layers:
        raise ConfigError(f'llama: is a decoder, here encoder_layers={model.encoder_layers}')
    return f.rope_fields(model.positions) | dict(
        vocab_size=model.vocab,
        hidden_size=model.embed,
        num_attention_heads=model.heads,
        num_key_value_heads=model.groups,
        head_dim=model.kv,
        intermediate_size=model.mlp,
        num_hidden_layers=model.decoder_layers,
        rms_norm_eps=model.norm.eps,
        hidden_act=f.activation_name(model.activation),
        tie_word_embeddings=model.tied,
        initializer_range=getattr(model.init, 'std', 0.02),
    )


def weights(model: ModelConfig) -> Iterator[Weight]:
    ours, theirs = 'decoder/blocks', 'layers.{}'
    yield table('token_embedding', 'embed_tokens', vocab=True)
    if not model.tied:
        yield output()
    for part, name in dict(query='q', key='k', value='v', out='o').items():
        yield from linear(f'{ours}/attention/{part}', f'{theirs}.self_attn.{name}_proj', bias=False)
    if model.qk_norm:
        for part in ('query', 'key'):
            name = f'{theirs}.self_attn.{part[0]}_norm'
            yield from norm(f'{ours}/attention/{part}_norm', name, bias=False)
    for part, name in dict(wide='gate', gate='up', out='down').items():
        yield from linear(f'{ours}/mlp/{part}', f'{theirs}.mlp.{name}_proj', bias=False)
    yield from norm(f'{ours}/attention_norm', f'{theirs}.input_layernorm', bias=False)
    yield from norm(f'{ours}/mlp_norm', f'{theirs}.post_attention_layernorm', bias=False)
    yield from norm('decoder/norm', 'norm', bias=False)


def family(model_type: str, name: str, span_prefix: str = 'transformer.', **changes) -> Family:
    """Llama or a relative, whose architectures are called after `name`.

    `span_prefix` is what transformers puts before the trunk's names for span QA.
    """
    fields = dict(
        model_type=model_type,
        to_model=to_model,
        to_fields=to_fields,
        weights=weights,
        base=f'{name}ForCausalLM',
        bare=f'{name}Model',
        prefix='model.',
        heads={
            'classifier': HeadNames(
                f'{name}ForSequenceClassification',
                lambda labels: ClassifierHead(labels=labels, activation=None, bias=False),
                tuple(linear('output', 'score', bias=False)),
            ),
            'tagger': HeadNames(
                f'{name}ForTokenClassification',
                lambda labels: ClassifierHead(labels=labels, activation=None),
                tuple(linear('output', 'score')),
            ),
            'span': HeadNames(
                f'{name}ForQuestionAnswering',
                lambda labels: ClassifierHead(labels=2, activation=None),
                tuple(linear('output', 'qa_outputs')),
                prefix=span_prefix,
            ),
        },
        renamed=((r'^transformer\.', 'model.'),),
        ignored=(r'rotary_emb\.inv_freq$',),
        settle=functools.partial(
            f.settle_output, output='lm_head.weight', table='embed_tokens.weight'
        ),
    )
    return Family(**fields | changes)


FAMILY = family('llama', 'Llama')
