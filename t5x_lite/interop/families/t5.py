"""T5 1.0 and 1.1 (Raffel et al. 2020, Shazeer 2020), ByT5, Flan-T5 in transformers' files."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from t5x_lite.errors import ConfigError
from t5x_lite.interop import fields as f
from t5x_lite.interop.names import Family, HeadNames, Weight, linear, norm, output, table
from t5x_lite.model.activations import gelu_tanh
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.heads import ClassifierHead
from t5x_lite.model.inits import FanIn
from t5x_lite.model.norms import RMSNorm
from t5x_lite.model.positions import Relative

ENCODERS = ('EncoderModel', 'ForTokenClassification')  # architectures without the decoder


def to_model(fields: Mapping[str, Any]) -> ModelConfig:
    f.refuse_others(fields, is_decoder=(False,))
    layers = f.need(fields, 'num_layers')
    decoder = fields.get('num_decoder_layers')
    only_encoder = (fields.get('architectures') or [''])[0].endswith(ENCODERS)
    gated, activation = _activation(fields)
    tied = fields.get('tie_word_embeddings') is not False
    return ModelConfig(
        vocab=f.need(fields, 'vocab_size'),
        embed=f.need(fields, 'd_model'),
        heads=f.need(fields, 'num_heads'),
        head_size=f.need(fields, 'd_kv'),
        mlp=f.need(fields, 'd_ff'),
        encoder_layers=layers,
        decoder_layers=0 if only_encoder else layers if decoder is None else decoder,
        positions=Relative(
            buckets=fields.get('relative_attention_num_buckets', 32),
            max_distance=fields.get('relative_attention_max_distance', 128),
        ),
        norm=RMSNorm(eps=fields.get('layer_norm_epsilon', 1e-6)),
        gated=gated,
        activation=activation,
        tied=tied,
        scale_logits=fields.get('scale_decoder_outputs', tied),
        scale_attention=False,
        dropout=fields.get('dropout_rate', 0.1),
        init=FanIn(embedding=fields.get('initializer_factor', 1.0)),
    )


def _activation(fields: Mapping[str, Any]) -> tuple[bool, Callable]:
    """(gated, activation); 'gated-gelu' means the approximation."""
    first, _, last = fields.get('feed_forward_proj', 'relu').rpartition('-')
    name = fields.get('dense_act_fn') or last
    if (first, name) == ('gated', 'gelu') and 'dense_act_fn' not in fields:
        return True, gelu_tanh
    return fields.get('is_gated_act', first == 'gated'), f.activation(name)


def to_fields(model: ModelConfig) -> dict[str, Any]:
    if not model.encoder_layers:
        raise ConfigError('t5: has an encoder, here encoder_layers=0')
    name, gate = f.activation_name(model.activation), 'gated-' if model.gated else ''
    return dict(
        vocab_size=model.vocab,
        d_model=model.embed,
        num_heads=model.heads,
        d_kv=model.kv,
        d_ff=model.mlp,
        num_layers=model.encoder_layers,
        num_decoder_layers=model.decoder_layers,
        relative_attention_num_buckets=model.positions.buckets,
        relative_attention_max_distance=model.positions.max_distance,
        layer_norm_epsilon=model.norm.eps,
        feed_forward_proj=gate + ('gelu' if model.gated and name == 'gelu_new' else name),
        dense_act_fn=name,
        **f.special_ids(model, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1),
        is_gated_act=model.gated,
        tie_word_embeddings=model.tied,
        scale_decoder_outputs=model.scale_logits,
        dropout_rate=model.dropout,
    )


def settle(fields, tensors, *, scaled: bool = True):
    """Whether logits are scaled and tied.

    Files of T5 1.0 have tie_word_embeddings true or leave it out, files of T5 1.1 before
    transformers 5 false. Since then it is always true, scale_decoder_outputs tells the versions
    apart, and a matrix of its own is known by its tensor.
    """
    said = fields.get('tie_word_embeddings') is not False
    scale = scaled and fields.get('scale_decoder_outputs', said)
    fields, tensors = f.settle_output(fields, tensors, 'lm_head.weight', 'shared.weight')
    if scale and not fields['tie_word_embeddings']:
        raise ConfigError(
            'lm_head.weight differs from shared.weight, but scale_decoder_outputs (in older files '
            'tie_word_embeddings) is true: scaled logits of a matrix of their own are not known '
            'here; set scale_decoder_outputs to false if the model was trained so'
        )
    return {**fields, 'scale_decoder_outputs': scale}, tensors


def weights(model: ModelConfig) -> Iterator[Weight]:
    yield table('token_embedding', 'shared', vocab=True)
    if not model.tied:
        yield output()
    for stack in model.stacks:
        ours, theirs = f'{stack}/blocks', f'{stack}.block.{{}}.layer'
        yield from _attention(f'{ours}/attention', f'{theirs}.0', 'SelfAttention')
        if stack == 'decoder':
            yield from _attention(f'{ours}/cross', f'{theirs}.1', 'EncDecAttention')
        yield from _feed_forward(model, ours, f'{theirs}.{1 if stack == "encoder" else 2}')
        yield _relative_bias(model, stack)
        yield from norm(f'{stack}/norm', f'{stack}.final_layer_norm', bias=False)


def _attention(ours: str, theirs: str, name: str) -> Iterator[Weight]:
    for part in ('query', 'key', 'value', 'out'):
        yield from linear(f'{ours}/{part}', f'{theirs}.{name}.{part[0]}', bias=False)
    yield from norm(f'{ours}_norm', f'{theirs}.layer_norm', bias=False)


def _feed_forward(model: ModelConfig, ours: str, theirs: str) -> Iterator[Weight]:
    names = {'wide': 'wi_0', 'gate': 'wi_1'} if model.gated else {'wide': 'wi'}
    for part, name in (names | {'out': 'wo'}).items():
        yield from linear(f'{ours}/mlp/{part}', f'{theirs}.DenseReluDense.{name}', bias=False)
    yield from norm(f'{ours}/mlp_norm', f'{theirs}.layer_norm', bias=False)


def _relative_bias(model: ModelConfig, stack: str) -> Weight:
    """[buckets, heads]: layer 0 has it for all, or each layer its own."""
    each = model.positions.per_layer
    ours = f'{stack}/blocks' if each else stack
    theirs = f'{stack}.block.{"{}" if each else 0}.layer.0.SelfAttention'
    return Weight(f'{ours}/positions/relative_bias', f'{theirs}.relative_attention_bias.weight')


def family(model_type: str, name: str, **changes) -> Family:
    """T5 or a relative, whose architectures are called after `name`."""
    dense = linear('dense', 'classification_head.dense')
    fields = dict(
        model_type=model_type,
        to_model=to_model,
        to_fields=to_fields,
        weights=weights,
        base=f'{name}ForConditionalGeneration',
        bare=f'{name}ForConditionalGeneration',
        encoder=f'{name}EncoderModel',
        prefix='transformer.',
        heads={
            'classifier': HeadNames(
                f'{name}ForSequenceClassification',
                lambda labels: ClassifierHead(labels=labels),
                (*dense, *linear('output', 'classification_head.out_proj')),
            ),
            'tagger': HeadNames(
                f'{name}ForTokenClassification',
                lambda labels: ClassifierHead(labels=labels, activation=None),
                tuple(linear('output', 'classifier')),
            ),
            'span': HeadNames(
                f'{name}ForQuestionAnswering',
                lambda labels: ClassifierHead(labels=2, activation=None),
                tuple(linear('output', 'qa_outputs')),
                prefix='',
            ),
        },
        ignored=(
            r'^(encoder|decoder)\.embed_tokens\.weight$',  # copies of shared.weight
            r'EncDecAttention\.relative_attention_bias\.weight$',  # in old files, never used
        ),
        settle=settle,
    )
    return Family(**fields | changes)


FAMILY = family('t5', 'T5')
