"""BERT: every head's logits, loss and gradients are those of transformers."""
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
    max_position_embeddings=24,
)
# architecture -> (head, a score per token or per row, classes, how the head is applied)
HEADS = {
    'BertForMaskedLM': ('mlm', 'token', 99, lambda m, x: m.heads['mlm'](x, m)),
    'BertForNextSentencePrediction': (
        'nsp',
        'row',
        2,
        lambda m, x: m.heads['nsp'](x[:, 0]),
    ),
    'BertForSequenceClassification': (
        'classifier',
        'row',
        5,
        lambda m, x: m.heads['classifier'](x[:, 0]),
    ),
    'BertForTokenClassification': (
        'tagger',
        'token',
        5,
        lambda m, x: m.heads['tagger'](x),
    ),
    'BertForQuestionAnswering': ('span', 'token', 2, lambda m, x: m.heads['span'](x)),
    'BertModel': (
        'sentence',
        'row',
        32,
        lambda m, x: m.heads['sentence'](x[:, 0]),
    ),
}


@pytest.mark.parametrize('kind', HEADS)
def test_logits_loss_and_gradients(kind, tmp_path):
    head, per, classes, apply = HEADS[kind]
    config = transformers.BertConfig(**SIZES, num_labels=5)
    if head == 'span':
        config.num_labels = 2
    theirs = reference.save(getattr(transformers, kind)(config), tmp_path / 'theirs')
    ours = reference.load(tmp_path / 'theirs')
    assert list(ours.heads) == [head]
    ids, mask = reference.tokens(99)
    types = (ids % 2) * mask
    inputs = dict(input_ids=ids, attention_mask=mask, token_type_ids=types)
    inputs = {name: torch.tensor(x) for name, x in inputs.items()}
    reference.compare(
        ours,
        theirs,
        lambda model: apply(model, model.encode(ids, segments=mask, types=types)),
        lambda model: reference.scores(model(**inputs)),
        *reference.targets(*((ids.shape, classes, mask) if per == 'token' else (3, classes))),
    )
    reference.round_trip(ours, theirs, tmp_path / 'ours')


def test_the_two_heads_of_pre_training(tmp_path):
    config = transformers.BertConfig(**SIZES)
    theirs = reference.save(transformers.BertForPreTraining(config), tmp_path / 'theirs')
    ours = reference.load(tmp_path / 'theirs')
    assert list(ours.heads) == ['mlm', 'nsp']
    ids, mask = reference.tokens(99)
    inputs = dict(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))

    def both(model):  # one score in which every weight of both heads has its say
        x = model.encode(ids, segments=mask)
        scores = model.heads['nsp'](x[:, 0])
        return model.heads['mlm'](x, model) * (scores[:, :1] - scores[:, 1:])[..., None]

    def reference_of_both(model):
        out = model(**inputs)
        scores = out.seq_relationship_logits
        return out.prediction_logits * (scores[:, :1] - scores[:, 1:])[..., None]

    chosen = reference.targets(ids.shape, 99, mask)
    reference.compare(ours, theirs, both, reference_of_both, *chosen)
    reference.round_trip(ours, theirs, tmp_path / 'ours')


def test_configs_and_presets_are_the_same_in_both_notations():
    reference.same_presets('bert', 'bert_')
