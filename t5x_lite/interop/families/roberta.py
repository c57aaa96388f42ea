"""RoBERTa (Liu et al. 2019) in transformers' files."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from typing import Any

from t5x_lite.errors import ConfigError
from t5x_lite.interop import fields as f
from t5x_lite.interop.families import bert
from t5x_lite.interop.names import Family, HeadNames, Weight, linear, norm
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.heads import ClassifierHead, MaskedLMHead, SentenceHead
from t5x_lite.model.norms import LayerNorm
from t5x_lite.model.positions import Learned


def to_model(fields: Mapping[str, Any]) -> ModelConfig:
    """Positions start after the id of padding (1), and their table has rows for it."""
    bert.refuse_variants(fields)
    f.refuse_others(fields, hidden_act=('gelu',))  # the masked LM head has it whatever this says
    pad = fields.get('pad_token_id', 1)
    if type(pad) is not int or pad < 0:
        raise ConfigError(
            f'config.json: pad_token_id={pad!r} must be an integer of 0 or more: positions start '
            'after it; RoBERTa has 1'
        )
    length = f.number(fields, 'max_position_embeddings', 512) - pad - 1
    return ModelConfig(
        **f.encoder_sizes(fields),
        types=f.number(fields, 'type_vocab_size', 2),
        positions=Learned(length=length, offset=pad + 1),
        norm=LayerNorm(eps=f.number(fields, 'layer_norm_eps', 1e-12)),
        norm_first=False,
        norm_embedding=True,
        activation=f.activation('gelu'),
        bias=True,
    )


def to_fields(model: ModelConfig) -> dict[str, Any]:
    positions = model.positions
    own = dict(
        max_position_embeddings=positions.length + positions.offset,
        pad_token_id=positions.offset - 1,
        **f.special_ids(model, bos_token_id=0, eos_token_id=2),
    )
    return bert.to_fields(model) | own


MLM = (
    *linear('dense', 'lm_head.dense'),
    *norm('norm', 'lm_head.layer_norm'),
    Weight('bias', 'lm_head.bias', vocab=True),
)

FAMILY = Family(
    model_type='roberta',
    to_model=to_model,
    to_fields=to_fields,
    weights=bert.weights,
    base='RobertaModel',
    bare='RobertaModel',
    prefix='roberta.',
    heads={
        'mlm': HeadNames('RobertaForMaskedLM', lambda labels: MaskedLMHead(), MLM),
        'classifier': HeadNames(
            'RobertaForSequenceClassification',
            lambda labels: ClassifierHead(labels=labels),
            (*linear('dense', 'classifier.dense'), *linear('output', 'classifier.out_proj')),
        ),
        'tagger': HeadNames(
            'RobertaForTokenClassification',
            lambda labels: ClassifierHead(labels=labels, activation=None),
            tuple(linear('output', 'classifier')),
        ),
        'span': HeadNames(
            'RobertaForQuestionAnswering',
            lambda labels: ClassifierHead(labels=2, activation=None),
            tuple(linear('output', 'qa_outputs')),
        ),
        'sentence': HeadNames(
            'RobertaModel',
            lambda labels: SentenceHead(),
            tuple(linear('dense', 'roberta.pooler.dense')),
        ),
    },
    ignored=(r'embeddings\.position_ids$',),
    renamed=(  # tied: one of the two names may be all there is
        (r'^lm_head\.decoder\.weight$', 'roberta.embeddings.word_embeddings.weight'),
        (r'^lm_head\.decoder\.bias$', 'lm_head.bias'),
    ),
)
