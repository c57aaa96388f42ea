"""ELECTRA (Clark et al. 2020), discriminator and generator, in transformers' files."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from t5x_lite.interop import fields as f
from t5x_lite.interop.families import bert
from t5x_lite.interop.names import Family, HeadNames, Weight, linear, norm
from t5x_lite.model.activations import gelu
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.heads import ClassifierHead, MaskedLMHead


def to_model(fields: Mapping[str, Any]) -> ModelConfig:
    f.refuse_others(fields, hidden_act=('gelu',))  # heads have it whatever this says
    size = f.number(fields, 'embedding_size', 128)
    narrow = None if size == f.need(fields, 'hidden_size') else size
    return dataclasses.replace(bert.to_model(fields), embedding_size=narrow)


def to_fields(model: ModelConfig) -> dict[str, Any]:
    return bert.to_fields(model) | dict(embedding_size=model.table)


def weights(model: ModelConfig) -> Iterator[Weight]:
    yield from bert.weights(model)
    if model.table != model.embed:
        yield from linear('encoder/projection', 'embeddings_project')


MLM = (
    *linear('dense', 'generator_predictions.dense'),
    *norm('norm', 'generator_predictions.LayerNorm'),
    Weight('bias', 'generator_lm_head.bias', vocab=True),
)

FAMILY = Family(
    model_type='electra',
    to_model=to_model,
    to_fields=to_fields,
    weights=weights,
    base='ElectraModel',
    bare='ElectraModel',
    prefix='electra.',
    heads={
        'discriminator': HeadNames(
            'ElectraForPreTraining',
            lambda labels: ClassifierHead(labels=1, activation=gelu),
            (
                *linear('dense', 'discriminator_predictions.dense'),
                *linear('output', 'discriminator_predictions.dense_prediction'),
            ),
        ),
        'mlm': HeadNames('ElectraForMaskedLM', lambda labels: MaskedLMHead(), MLM),
        'classifier': HeadNames(
            'ElectraForSequenceClassification',
            lambda labels: ClassifierHead(labels=labels, activation=gelu),
            (*linear('dense', 'classifier.dense'), *linear('output', 'classifier.out_proj')),
        ),
        'tagger': HeadNames(
            'ElectraForTokenClassification',
            lambda labels: ClassifierHead(labels=labels, activation=None),
            tuple(linear('output', 'classifier')),
        ),
        'span': HeadNames(
            'ElectraForQuestionAnswering',
            lambda labels: ClassifierHead(labels=2, activation=None),
            tuple(linear('output', 'qa_outputs')),
        ),
    },
    ignored=(r'embeddings\.position_ids$',),
    renamed=((r'^generator_lm_head\.weight$', 'electra.embeddings.word_embeddings.weight'),),
)
