"""RoBERTa: every head's logits, loss and gradients are those of transformers."""
# SPDX-License-Identifier: Apache-2.0

import pytest
import reference
from reference import torch, transformers

SIZES = dict(
    vocab_size=99,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=26,
    type_vocab_size=1,
    layer_norm_eps=1e-5,
)
# architecture -> (head, a score per token or per row, classes, how the head is applied)
HEADS = {
    'RobertaForMaskedLM': ('mlm', 'token', 99, lambda m, x: m.heads['mlm'](x, m)),
    'RobertaForSequenceClassification': (
        'classifier',
        'row',
        5,
        lambda m, x: m.heads['classifier'](x[:, 0]),
    ),
    'RobertaForTokenClassification': ('tagger', 'token', 5, lambda m, x: m.heads['tagger'](x)),
    'RobertaForQuestionAnswering': ('span', 'token', 2, lambda m, x: m.heads['span'](x)),
    'RobertaModel': ('sentence', 'row', 32, lambda m, x: m.heads['sentence'](x[:, 0])),
}


@pytest.mark.parametrize('kind', HEADS)
def test_logits_loss_and_gradients(kind, tmp_path):
    head, per, classes, apply = HEADS[kind]
    config = transformers.RobertaConfig(**SIZES, num_labels=5)
    if head == 'span':
        config.num_labels = 2
    theirs = reference.save(getattr(transformers, kind)(config), tmp_path / 'theirs')
    ours = reference.load(tmp_path / 'theirs')
    assert list(ours.heads) == [head]
    ids, mask = reference.tokens(99)
    inputs = dict(
        input_ids=torch.tensor(ids + (1 - mask)),  # their positions are those of ids other than 1
        attention_mask=torch.tensor(mask),
    )
    reference.compare(
        ours,
        theirs,
        lambda model: apply(model, model.encode(ids, segments=mask)),
        lambda model: reference.scores(model(**inputs)),
        *reference.targets(*((ids.shape, classes, mask) if per == 'token' else (3, classes))),
    )
    reference.round_trip(ours, theirs, tmp_path / 'ours')


def test_configs_and_presets_are_the_same_in_both_notations():
    reference.same_presets('roberta', 'roberta_')


def test_our_positions_must_start_after_an_id(tmp_path):
    fields = dict(SIZES, model_type='roberta', pad_token_id=None)
    with pytest.raises(reference.ConfigError, match='pad_token_id=None must be an integer'):
        reference.family('roberta').to_model(fields)
