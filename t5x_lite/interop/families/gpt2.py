"""GPT-2 (Radford et al. 2019) in transformers' files."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterator, Mapping
from typing import Any

from t5x_lite.interop import fields as f
from t5x_lite.interop.names import Family, HeadNames, Weight, linear, norm, table
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.heads import ClassifierHead
from t5x_lite.model.inits import Normal
from t5x_lite.model.norms import LayerNorm
from t5x_lite.model.positions import Learned

END = 50_256  # <|endoftext|>


def to_model(fields: Mapping[str, Any]) -> ModelConfig:
    f.refuse_others(
        fields,
        scale_attn_by_inverse_layer_idx=(False,),
        add_cross_attention=(False,),
        tie_word_embeddings=(True,),
    )
    embed, std = f.need(fields, 'n_embd'), f.number(fields, 'initializer_range', 0.02)
    return ModelConfig(
        vocab=f.need(fields, 'vocab_size'),
        embed=embed,
        heads=f.need(fields, 'n_head'),
        mlp=4 * embed if fields.get('n_inner') is None else fields['n_inner'],
        decoder_layers=f.need(fields, 'n_layer'),
        positions=Learned(length=f.number(fields, 'n_positions', 1024)),
        norm=LayerNorm(eps=f.number(fields, 'layer_norm_epsilon', 1e-5)),
        activation=f.activation(fields.get('activation_function', 'gelu_new')),
        bias=True,
        scale_attention=fields.get('scale_attn_weights', True),
        dropout=f.number(fields, 'resid_pdrop', 0.1),
        init=Normal(std=std, scale_residual=True, positions=0.01),
    )


def to_fields(model: ModelConfig) -> dict[str, Any]:
    return dict(
        vocab_size=model.vocab,
        n_embd=model.embed,
        n_head=model.heads,
        n_inner=model.mlp,
        n_layer=model.decoder_layers,
        n_positions=model.positions.length,
        layer_norm_epsilon=model.norm.eps,
        activation_function=f.activation_name(model.activation),
        scale_attn_weights=model.scale_attention,
        resid_pdrop=model.dropout,
        embd_pdrop=model.dropout,
        attn_pdrop=model.dropout,
        initializer_range=getattr(model.init, 'std', 0.02),
        **f.special_ids(model, bos_token_id=END, eos_token_id=END),
    )


def weights(model: ModelConfig) -> Iterator[Weight]:
    """`Conv1D` holds [in, out], as we do; query, key and value are columns of one."""
    yield table('token_embedding', 'wte', vocab=True)
    yield table('decoder/positions', 'wpe')
    ours, theirs, lies = 'decoder/blocks', 'h.{}', dict(transposed=False)
    yield from norm(f'{ours}/attention_norm', f'{theirs}.ln_1')
    for i, name in enumerate(('query', 'key', 'value')):
        yield from linear(f'{ours}/attention/{name}', f'{theirs}.attn.c_attn', part=(i, 3), **lies)
    yield from linear(f'{ours}/attention/out', f'{theirs}.attn.c_proj', **lies)
    yield from norm(f'{ours}/mlp_norm', f'{theirs}.ln_2')
    yield from linear(f'{ours}/mlp/wide', f'{theirs}.mlp.c_fc', **lies)
    yield from linear(f'{ours}/mlp/out', f'{theirs}.mlp.c_proj', **lies)
    yield from norm('decoder/norm', 'ln_f')


FAMILY = Family(
    model_type='gpt2',
    to_model=to_model,
    to_fields=to_fields,
    weights=weights,
    base='GPT2LMHeadModel',
    bare='GPT2Model',
    prefix='transformer.',
    heads={
        'classifier': HeadNames(  # of the last token that is no padding
            'GPT2ForSequenceClassification',
            lambda labels: ClassifierHead(labels=labels, activation=None, bias=False),
            tuple(linear('output', 'score', bias=False)),
        ),
        'tagger': HeadNames(
            'GPT2ForTokenClassification',
            lambda labels: ClassifierHead(labels=labels, activation=None),
            tuple(linear('output', 'classifier')),
        ),
        'span': HeadNames(
            'GPT2ForQuestionAnswering',
            lambda labels: ClassifierHead(labels=2, activation=None),
            tuple(linear('output', 'qa_outputs')),
        ),
    },
    ignored=(r'\.attn\.(masked_)?bias$',),  # the causal mask
    renamed=((r'^lm_head\.weight$', 'transformer.wte.weight'),),
)
