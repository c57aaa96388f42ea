"""GPT-2: every head's logits, loss and gradients are those of transformers."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
import reference
from reference import torch, transformers

from t5x_lite.interop import architectures
from t5x_lite.model import presets

SIZES = dict(
    vocab_size=99, n_embd=32, n_layer=3, n_head=4, n_positions=24, bos_token_id=1, eos_token_id=2
)
LENGTHS = (11, 7, 1)
# architecture -> (heads, a score per token or per row, classes, how the head is applied)
HEADS = {
    'GPT2LMHeadModel': ([], 'token', 99, lambda m, x: m.logits(x)),
    'GPT2ForSequenceClassification': (
        ['classifier'],
        'row',
        5,
        lambda m, x: m.heads['classifier'](x[np.arange(3), np.array(LENGTHS) - 1]),
    ),
    'GPT2ForTokenClassification': (['tagger'], 'token', 5, lambda m, x: m.heads['tagger'](x)),
    'GPT2ForQuestionAnswering': (['span'], 'token', 2, lambda m, x: m.heads['span'](x)),
}


@pytest.mark.parametrize('kind', HEADS)
def test_logits_loss_and_gradients(kind, tmp_path):
    heads, per, classes, apply = HEADS[kind]
    labels = 2 if heads == ['span'] else 5
    config = transformers.GPT2Config(**SIZES, num_labels=labels, pad_token_id=0)
    theirs = reference.save(getattr(transformers, kind)(config), tmp_path / 'theirs')
    ours = reference.load(tmp_path / 'theirs')
    assert list(ours.heads) == heads
    ids, mask = reference.tokens(99, LENGTHS)
    inputs = dict(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))
    reference.compare(
        ours,
        theirs,
        lambda model: apply(model, model.decode(ids, segments=mask)[0]),
        lambda model: reference.scores(model(**inputs)),
        *reference.targets(*((ids.shape, classes, mask) if per == 'token' else (3, classes))),
    )
    reference.round_trip(ours, theirs, tmp_path / 'ours')


def test_configs_and_presets_are_the_same_in_both_notations():
    reference.same_presets('gpt2', 'gpt2_')


def test_a_head_size_may_be_said_or_left_out():
    assert architectures.family_of(presets.gpt3_small()).model_type == 'gpt2'
    with pytest.raises(reference.ConfigError, match='gpt2 has another head_size'):
        architectures.family_of(presets.gpt2_small(head_size=48))
    with pytest.raises(
        reference.ConfigError, match='gpt2: ModelConfig: heads=24 must divide embed=2048'
    ):
        architectures.family_of(presets.gpt3_xl())  # 24 heads of 128 on a width of 2048


def test_a_width_of_its_own_and_unscaled_scores_are_read_and_others_refused():
    family = reference.family('gpt2')
    fields = transformers.GPT2Config(**SIZES, n_inner=40, scale_attn_weights=False).to_dict()
    model = family.to_model(fields)
    assert model.mlp == 40 and not model.scale_attention
    assert family.to_model(family.to_fields(model)) == model
    for name in ('scale_attn_by_inverse_layer_idx', 'add_cross_attention'):
        with pytest.raises(reference.ConfigError, match=f'{name}=True is not known here'):
            family.to_model(fields | {name: True})
