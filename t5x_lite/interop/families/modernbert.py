"""ModernBERT (Warner et al. 2024) in transformers' files."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterator, Mapping
from typing import Any

from t5x_lite.errors import ConfigError
from t5x_lite.interop import fields as f
from t5x_lite.interop.names import Family, HeadNames, Weight, linear, norm, table
from t5x_lite.model.activations import gelu
from t5x_lite.model.config import Local, ModelConfig
from t5x_lite.model.heads import ClassifierHead, MaskedLMHead
from t5x_lite.model.inits import Normal
from t5x_lite.model.norms import LayerNorm
from t5x_lite.model.positions import Rope

GLOBAL, LOCAL = 'full_attention', 'sliding_attention'
PAD, BOS, EOS = 50_283, 50_281, 50_282


def to_model(fields: Mapping[str, Any]) -> ModelConfig:
    bias = fields.get('attention_bias', False)
    f.refuse_others(
        dict(mlp_bias=False) | fields,
        hidden_activation=('gelu',),  # the heads' names do not say which they have
        classifier_activation=('gelu',),
        classifier_bias=(False,),
        decoder_bias=(True,),
        norm_bias=(False,),
        mlp_bias=(bias,),
        tie_word_embeddings=(True,),
    )
    local = _local(fields)
    init = Normal(std=f.number(fields, 'initializer_range', 0.02), scale_residual=True)
    own = dict(dropout=f.number(fields, 'mlp_dropout', 0.0), init=init)
    return ModelConfig(
        **f.encoder_sizes(fields) | own,
        positions=_positions(fields, local),
        local=local,
        norm=LayerNorm(eps=f.number(fields, 'norm_eps', 1e-5), bias=False),
        norm_embedding=True,
        first_norm=False,
        activation=gelu,
        gated=True,
        bias=bias,
    )


def _local(fields: Mapping[str, Any]) -> Local | None:
    """The windows, of `layer_types` (transformers 5) or of how often a layer has none."""
    layers, kinds = f.number(fields, 'num_hidden_layers', 22), fields.get('layer_types')
    reach = f.number(fields, 'local_attention', 128) // 2
    windows = lambda every: None if every == 1 else Local(reach=reach, global_every=every)
    local = windows(f.number(fields, 'global_attn_every_n_layers', 3))
    if kinds in (None, _layer_types(local, layers)):
        return local
    whole = [i for i, kind in enumerate(kinds) if kind == GLOBAL]
    local = windows(whole[1] if len(whole) > 1 else layers if whole else None)
    if kinds != _layer_types(local, layers):
        raise ConfigError(
            f'config.json: layer_types={kinds} is not known here; {GLOBAL} must come in layers '
            f'0, n, 2n, ..., and {LOCAL} in the others'
        )
    return local


def _layer_types(local: Local | None, layers: int) -> list[str]:
    if local is None:
        return [GLOBAL] * layers
    every = local.global_every
    return [LOCAL if every is None or i % every else GLOBAL for i in range(layers)]


def _positions(fields: Mapping[str, Any], local: Local | None) -> Rope:
    """The bases, of `rope_parameters` (transformers 5) or of fields of their own."""
    bases = []
    for kind, name, default in (
        (GLOBAL, 'global_rope_theta', 160_000.0),
        (LOCAL, 'local_rope_theta', 10_000.0),
    ):
        own = (fields.get('rope_parameters') or {}).get(kind) or {}
        f.refuse_others(own, rope_type=('default',), partial_rotary_factor=(1.0,))
        bases.append(f.number(own, 'rope_theta', f.number(fields, name, default)))
    base, local_base = bases
    return Rope(base=base, local_base=None if local is None or local_base == base else local_base)


def to_fields(model: ModelConfig) -> dict[str, Any]:
    local, positions = model.local, model.positions
    bases = {GLOBAL: positions.base, LOCAL: positions.local_base or positions.base}
    rope = {kind: dict(rope_type='default', rope_theta=base) for kind, base in bases.items()}
    own = dict(
        hidden_activation=f.activation_name(model.activation),
        attention_bias=model.bias,
        mlp_bias=model.bias,
        mlp_dropout=model.dropout,
        attention_dropout=model.dropout,
        embedding_dropout=model.dropout,
        norm_eps=model.norm.eps,
        norm_bias=model.norm.bias,
        layer_types=_layer_types(local, model.encoder_layers),
        global_attn_every_n_layers=1 if local is None else local.global_every,
        local_attention=128 if local is None else 2 * local.reach,
        rope_parameters=rope,
        global_rope_theta=bases[GLOBAL],  # for transformers 4
        local_rope_theta=bases[LOCAL],
    )
    ids = dict(pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS)
    ids |= dict(cls_token_id=BOS, sep_token_id=EOS)
    sizes = f.encoder_fields(model)
    del sizes['hidden_dropout_prob'], sizes['attention_probs_dropout_prob']
    return sizes | own | f.special_ids(model, **ids)


def weights(model: ModelConfig) -> Iterator[Weight]:
    yield table('token_embedding', 'embeddings.tok_embeddings', vocab=True)
    yield from norm('encoder/embedding_norm', 'embeddings.norm', bias=False)
    ours, theirs, bias = 'encoder/blocks', 'layers.{}', dict(bias=model.bias)
    yield from norm(f'{ours}/attention_norm', f'{theirs}.attn_norm', bias=False, absent=(0,))
    for i, name in enumerate(('query', 'key', 'value')):
        yield from linear(f'{ours}/attention/{name}', f'{theirs}.attn.Wqkv', part=(i, 3), **bias)
    yield from linear(f'{ours}/attention/out', f'{theirs}.attn.Wo', **bias)
    yield from norm(f'{ours}/mlp_norm', f'{theirs}.mlp_norm', bias=False)
    yield from linear(f'{ours}/mlp/wide', f'{theirs}.mlp.Wi', part=(0, 2), **bias)
    yield from linear(f'{ours}/mlp/gate', f'{theirs}.mlp.Wi', part=(1, 2), **bias)
    yield from linear(f'{ours}/mlp/out', f'{theirs}.mlp.Wo', **bias)
    yield from norm('encoder/norm', 'final_norm', bias=False)


HIDDEN = (*linear('dense', 'head.dense', bias=False), *norm('norm', 'head.norm', bias=False))
SCORES = (*HIDDEN, *linear('output', 'classifier'))


def _classifier(labels: int) -> ClassifierHead:
    return ClassifierHead(labels=labels, activation=gelu, norm=True, hidden_bias=False)


FAMILY = Family(
    model_type='modernbert',
    to_model=to_model,
    to_fields=to_fields,
    weights=weights,
    base='ModernBertModel',
    bare='ModernBertModel',
    prefix='model.',
    heads={
        'mlm': HeadNames(
            'ModernBertForMaskedLM',
            lambda labels: MaskedLMHead(bias=False),
            (*HIDDEN, Weight('bias', 'decoder.bias', vocab=True)),
        ),
        # One of the first token, or of the mean: config.json's classifier_pooling.
        'classifier': HeadNames('ModernBertForSequenceClassification', _classifier, SCORES),
        'tagger': HeadNames('ModernBertForTokenClassification', _classifier, SCORES),
        'span': HeadNames('ModernBertForQuestionAnswering', lambda labels: _classifier(2), SCORES),
    },
    ignored=(r'rotary_emb\.\w*inv_freq$',),
    renamed=((r'^decoder\.weight$', 'model.embeddings.tok_embeddings.weight'),),
)
