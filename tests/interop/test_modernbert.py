"""ModernBERT: every head's logits, loss and gradients are those of transformers."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
import reference
from reference import torch, transformers

from t5x_lite.model.config import Local
from t5x_lite.model.positions import Rope

SIZES = dict(
    vocab_size=99,
    hidden_size=32,
    num_hidden_layers=5,  # 0 and 3 see everything
    num_attention_heads=4,
    intermediate_size=48,
    local_attention=6,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    cls_token_id=1,
    sep_token_id=2,
)
LENGTHS, WIDTH = (23, 12, 5, 1), 23


def mean(x_BxLxD, mask_BxL):
    total_BxD = (x_BxLxD * mask_BxL[..., None]).sum(1)
    return total_BxD / mask_BxL.sum(1, keepdims=True)


# case -> (architecture, head, a score per token or per row, classes, how the head is applied)
HEADS = {
    'mlm': ('ModernBertForMaskedLM', 'token', 99, lambda head, x, mask, model: head(x, model)),
    'classifier': (
        'ModernBertForSequenceClassification',
        'row',
        5,
        lambda head, x, mask, model: head(x[:, 0]),
    ),
    'classifier of the mean': (
        'ModernBertForSequenceClassification',
        'row',
        5,
        lambda head, x, mask, model: head(mean(x, mask)),
    ),
    'tagger': (
        'ModernBertForTokenClassification',
        'token',
        5,
        lambda head, x, mask, model: head(x),
    ),
    'span': ('ModernBertForQuestionAnswering', 'token', 2, lambda head, x, mask, model: head(x)),
}


@pytest.mark.parametrize('case', HEADS)
def test_logits_loss_and_gradients(case, tmp_path):
    kind, per, classes, apply = HEADS[case]
    head, *of_mean = case.split(' of the ')
    config = transformers.ModernBertConfig(
        **SIZES,
        num_labels=2 if head == 'span' else 5,
        classifier_pooling=of_mean[0] if of_mean else 'cls',
    )
    theirs = reference.save(getattr(transformers, kind)(config), tmp_path / 'theirs')
    ours = reference.load(tmp_path / 'theirs')
    assert list(ours.heads) == [head]
    ids, mask = reference.tokens(99, LENGTHS, WIDTH)
    inputs = dict(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))
    reference.compare(
        ours,
        theirs,
        lambda m: apply(m.heads[head], m.encode(ids, segments=mask), mask, m),
        lambda m: reference.scores(m(**inputs)),
        *reference.targets(*((ids.shape, classes, mask) if per == 'token' else (4, classes))),
    )
    if not of_mean:  # what is pooled is no part of a head: transformers' default is written
        reference.round_trip(ours, theirs, tmp_path / 'ours')


def test_a_window_reaches_half_of_local_attention_either_way(tmp_path):
    """One local layer, so that what a token sees is what its layer shows it."""
    sizes = dict(SIZES, num_hidden_layers=1, layer_types=['sliding_attention'])
    theirs = reference.save(
        transformers.ModernBertModel(transformers.ModernBertConfig(**sizes)), tmp_path
    )
    ours = reference.load(tmp_path)
    ids, _ = reference.tokens(99, (WIDTH,), WIDTH)
    changed = ids.copy()
    changed[0, 10] = 3 + (ids[0, 10] + 1) % 90
    model = ours.model(ours.arrays)
    ours_moved = np.abs(np.asarray(model.encode(ids) - model.encode(changed)))[0].max(-1) > 0
    with torch.no_grad():
        theirs_moved = theirs(torch.tensor(ids))[0] - theirs(torch.tensor(changed))[0]
    theirs_moved = theirs_moved[0].abs().max(-1).values.numpy() > 0
    assert np.flatnonzero(ours_moved).tolist() == list(range(7, 14))
    np.testing.assert_array_equal(ours_moved, theirs_moved)


def test_configs_and_presets_are_the_same_in_both_notations():
    reference.same_presets('modernbert', 'modernbert_')


def test_both_generations_of_config_are_read():
    sizes = dict(vocab_size=9, hidden_size=8, num_attention_heads=2, intermediate_size=8)
    to_model = reference.family('modernbert').to_model
    old = dict(
        sizes,
        num_hidden_layers=5,
        global_attn_every_n_layers=2,
        local_attention=10,
        global_rope_theta=500.0,
        local_rope_theta=50.0,
    )
    rope = {
        'full_attention': dict(rope_type='default', rope_theta=500.0),
        'sliding_attention': dict(rope_type='default', rope_theta=50.0),
    }
    kinds = ['full_attention', 'sliding_attention'] * 2 + ['full_attention']
    new = dict(
        sizes, num_hidden_layers=5, layer_types=kinds, local_attention=10, rope_parameters=rope
    )
    assert to_model(old) == to_model(new)
    assert to_model(new).local == Local(reach=5, global_every=2)
    assert to_model(new).positions == Rope(base=500.0, local_base=50.0)
    assert to_model(dict(new, layer_types=kinds[1:2] * 5)).local == Local(reach=5)
    assert to_model(dict(new, global_attn_every_n_layers=4)) == to_model(new)  # transformers too
    everything = dict(new, layer_types=['full_attention'] * 5)
    assert to_model(everything).local is None
    with pytest.raises(reference.ConfigError, match='layer_types='):
        to_model(dict(new, layer_types=kinds[1:] + kinds[:1]))
    with pytest.raises(reference.ConfigError, match="rope_type='yarn' is not known"):
        to_model(dict(new, rope_parameters={'full_attention': dict(rope_type='yarn')}))
