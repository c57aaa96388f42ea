"""BART (Lewis et al. 2019) in transformers' files."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterator, Mapping
from typing import Any

from t5x_lite.errors import ConfigError
from t5x_lite.interop import fields as f
from t5x_lite.interop.names import Family, HeadNames, Weight, linear, norm, output, table
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.heads import ClassifierHead
from t5x_lite.model.inits import Normal
from t5x_lite.model.norms import LayerNorm
from t5x_lite.model.positions import Learned

CLASSES = 'classification_head.out_proj.weight'
BIAS = 'final_logits_bias'  # a buffer, zero in all published files
OFFSET = 2  # rows of the table of positions that are never looked up


def to_model(fields: Mapping[str, Any]) -> ModelConfig:
    f.refuse_others(
        fields,
        scale_embedding=(False,),
        normalize_before=(False,),
        normalize_embedding=(True,),
        add_final_layer_norm=(False,),
        static_position_embeddings=(False,),
        decoder_attention_heads=(f.need(fields, 'encoder_attention_heads'),),
        decoder_ffn_dim=(f.need(fields, 'encoder_ffn_dim'),),
    )
    return ModelConfig(
        vocab=f.need(fields, 'vocab_size'),
        embed=f.need(fields, 'd_model'),
        heads=fields['encoder_attention_heads'],
        mlp=fields['encoder_ffn_dim'],
        encoder_layers=f.need(fields, 'encoder_layers'),
        decoder_layers=f.need(fields, 'decoder_layers'),
        positions=Learned(length=fields.get('max_position_embeddings', 1024), offset=OFFSET),
        norm=LayerNorm(eps=1e-5),
        norm_first=False,
        norm_embedding=True,
        activation=f.activation(fields.get('activation_function', 'gelu')),
        bias=True,
        tied=fields.get('tie_word_embeddings') is not False,
        dropout=fields.get('dropout', 0.1),
        init=Normal(std=fields.get('init_std', 0.02)),
    )


def to_fields(model: ModelConfig) -> dict[str, Any]:
    if not (model.encoder_layers and model.decoder_layers):
        raise ConfigError('bart: has an encoder and a decoder')
    return dict(
        vocab_size=model.vocab,
        d_model=model.embed,
        encoder_attention_heads=model.heads,
        decoder_attention_heads=model.heads,
        encoder_ffn_dim=model.mlp,
        decoder_ffn_dim=model.mlp,
        encoder_layers=model.encoder_layers,
        decoder_layers=model.decoder_layers,
        max_position_embeddings=model.positions.length,
        activation_function=f.activation_name(model.activation),
        tie_word_embeddings=model.tied,
        dropout=model.dropout,
        init_std=getattr(model.init, 'std', 0.02),
        scale_embedding=False,
    )


def settle(fields, tensors):
    """The tied matrix, labels without names, and that the bias is zero.

    Transformers leaves the names of two labels out, but BART's default are three.
    """
    if BIAS in tensors and tensors[BIAS].read((slice(None), slice(None))).any():
        raise ConfigError(f'{BIAS} is not zero: biases of the vocabulary are not known here')
    if CLASSES in tensors and not fields.get('id2label'):
        names = {str(i): f'LABEL_{i}' for i in range(tensors[CLASSES].shape[0])}
        fields = {**fields, 'id2label': names}
    return f.settle_output(fields, tensors, 'lm_head.weight', 'shared.weight')


def weights(model: ModelConfig) -> Iterator[Weight]:
    yield table('token_embedding', 'shared', vocab=True)
    if not model.tied:
        yield output()
    for stack in model.stacks:
        ours, theirs = f'{stack}/blocks', f'{stack}.layers.{{}}'
        yield table(f'{stack}/positions', f'{stack}.embed_positions')
        yield from norm(f'{stack}/embedding_norm', f'{stack}.layernorm_embedding')
        yield from _attention(f'{ours}/attention', f'{theirs}.self_attn')
        if stack == 'decoder':
            yield from _attention(f'{ours}/cross', f'{theirs}.encoder_attn')
        yield from linear(f'{ours}/mlp/wide', f'{theirs}.fc1')
        yield from linear(f'{ours}/mlp/out', f'{theirs}.fc2')
        yield from norm(f'{ours}/mlp_norm', f'{theirs}.final_layer_norm')


def _attention(ours: str, theirs: str) -> Iterator[Weight]:
    for part, name in dict(query='q', key='k', value='v', out='out').items():
        yield from linear(f'{ours}/{part}', f'{theirs}.{name}_proj')
    yield from norm(f'{ours}_norm', f'{theirs}_layer_norm')


FAMILY = Family(
    model_type='bart',
    to_model=to_model,
    to_fields=to_fields,
    weights=weights,
    base='BartForConditionalGeneration',
    bare='BartModel',
    prefix='model.',
    heads={
        'classifier': HeadNames(
            'BartForSequenceClassification',
            lambda labels: ClassifierHead(labels=labels),
            (
                *linear('dense', 'classification_head.dense'),
                *linear('output', 'classification_head.out_proj'),
            ),
        ),
        'span': HeadNames(
            'BartForQuestionAnswering',
            lambda labels: ClassifierHead(labels=2, activation=None),
            tuple(linear('output', 'qa_outputs')),
        ),
    },
    ignored=(
        rf'^{BIAS}$',
        r'(encoder|decoder)\.embed_tokens\.weight$',  # copies of shared.weight
    ),
    settle=settle,
)
