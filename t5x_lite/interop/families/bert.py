"""BERT (Devlin et al. 2018) in transformers' files."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterator, Mapping
from typing import Any

from t5x_lite.interop import fields as f
from t5x_lite.interop.names import Family, HeadNames, Weight, linear, norm, table
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.heads import ClassifierHead, MaskedLMHead, SentenceHead
from t5x_lite.model.norms import LayerNorm
from t5x_lite.model.positions import Learned


def refuse_variants(fields: Mapping[str, Any]) -> None:
    """ConfigError for what BERT's, RoBERTa's and ELECTRA's files may say and we have not."""
    f.refuse_others(
        fields,
        position_embedding_type=('absolute',),
        is_decoder=(False,),
        add_cross_attention=(False,),
        tie_word_embeddings=(True,),
    )


def to_model(fields: Mapping[str, Any]) -> ModelConfig:
    refuse_variants(fields)
    return ModelConfig(
        **f.encoder_sizes(fields),
        types=f.number(fields, 'type_vocab_size', 2),
        positions=Learned(length=f.number(fields, 'max_position_embeddings', 512)),
        norm=LayerNorm(eps=f.number(fields, 'layer_norm_eps', 1e-12)),
        norm_first=False,
        norm_embedding=True,
        activation=f.activation(fields.get('hidden_act', 'gelu')),
        bias=True,
    )


def to_fields(model: ModelConfig) -> dict[str, Any]:
    return f.encoder_fields(model) | dict(
        type_vocab_size=model.types,
        max_position_embeddings=model.positions.length,
        layer_norm_eps=model.norm.eps,
        hidden_act=f.activation_name(model.activation),
    )


def weights(model: ModelConfig) -> Iterator[Weight]:
    yield table('token_embedding', 'embeddings.word_embeddings', vocab=True)
    yield table('encoder/positions', 'embeddings.position_embeddings')
    yield table('encoder/types', 'embeddings.token_type_embeddings')
    yield from norm('encoder/embedding_norm', 'embeddings.LayerNorm')
    yield from layers()


def layers() -> Iterator[Weight]:
    """The encoder's layers, alike in BERT, RoBERTa and ELECTRA."""
    ours, theirs = 'encoder/blocks', 'encoder.layer.{}'
    for name in ('query', 'key', 'value'):
        yield from linear(f'{ours}/attention/{name}', f'{theirs}.attention.self.{name}')
    yield from linear(f'{ours}/attention/out', f'{theirs}.attention.output.dense')
    yield from norm(f'{ours}/attention_norm', f'{theirs}.attention.output.LayerNorm')
    yield from linear(f'{ours}/mlp/wide', f'{theirs}.intermediate.dense')
    yield from linear(f'{ours}/mlp/out', f'{theirs}.output.dense')
    yield from norm(f'{ours}/mlp_norm', f'{theirs}.output.LayerNorm')


POOLER = tuple(linear('dense', 'bert.pooler.dense'))
MLM = (
    *linear('dense', 'cls.predictions.transform.dense'),
    *norm('norm', 'cls.predictions.transform.LayerNorm'),
    Weight('bias', 'cls.predictions.bias', vocab=True),
)

FAMILY = Family(
    model_type='bert',
    to_model=to_model,
    to_fields=to_fields,
    weights=weights,
    base='BertModel',
    bare='BertModel',
    prefix='bert.',
    heads={
        'mlm': HeadNames('BertForMaskedLM', lambda labels: MaskedLMHead(), MLM),
        'nsp': HeadNames(
            'BertForNextSentencePrediction',
            lambda labels: ClassifierHead(labels=2),
            (*POOLER, *linear('output', 'cls.seq_relationship')),
        ),
        'classifier': HeadNames(
            'BertForSequenceClassification',
            lambda labels: ClassifierHead(labels=labels),
            (*POOLER, *linear('output', 'classifier')),
        ),
        'tagger': HeadNames(
            'BertForTokenClassification',
            lambda labels: ClassifierHead(labels=labels, activation=None),
            tuple(linear('output', 'classifier')),
        ),
        'span': HeadNames(
            'BertForQuestionAnswering',
            lambda labels: ClassifierHead(labels=2, activation=None),
            tuple(linear('output', 'qa_outputs')),
        ),
        'sentence': HeadNames('BertModel', lambda labels: SentenceHead(), POOLER),
    },
    together={'BertForPreTraining': ('mlm', 'nsp')},
    ignored=(r'embeddings\.position_ids$',),
    renamed=(
        (r'LayerNorm\.gamma$', 'LayerNorm.weight'),
        (r'LayerNorm\.beta$', 'LayerNorm.bias'),
        # tied: one of the two names may be all there is
        (r'^cls\.predictions\.decoder\.weight$', 'bert.embeddings.word_embeddings.weight'),
        (r'^cls\.predictions\.decoder\.bias$', 'cls.predictions.bias'),
    ),
)
