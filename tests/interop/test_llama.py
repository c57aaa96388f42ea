"""Llama, Qwen 3 and Mistral: every head's logits, loss and gradients are those of transformers."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
import reference
from reference import torch, transformers

from t5x_lite.errors import ConfigError
from t5x_lite.interop import architectures, families
from t5x_lite.model import presets
from t5x_lite.model.config import Local
from t5x_lite.model.positions import Llama3Scaling, Rope

SIZES = dict(
    vocab_size=99,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    pad_token_id=0,
    num_labels=5,
)
LLAMA3 = dict(
    rope_type='llama3',
    rope_theta=10_000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=150,
)
WINDOW = dict(use_sliding_window=True, sliding_window=4, max_window_layers=0)
# kind -> (transformers' name, what its config has)
KINDS = {
    'llama': ('Llama', {}),
    'llama, tied': ('Llama', dict(tie_word_embeddings=True)),
    'llama, all keys': ('Llama', dict(num_key_value_heads=4, head_dim=16)),
    'llama 3': ('Llama', dict(rope_parameters=dict(rope_type='default', rope_theta=5e5))),
    'llama 3.1': ('Llama', dict(rope_parameters=LLAMA3, max_position_embeddings=1200)),
    'qwen 3': ('Qwen3', dict(head_dim=16, tie_word_embeddings=True)),
    'qwen 3, window': ('Qwen3', dict(head_dim=16, **WINDOW)),
    'mistral': ('Mistral', dict(sliding_window=4)),
    'mistral, no window': ('Mistral', dict(sliding_window=None)),
}
HEADS = ['Model', 'ForSequenceClassification', 'ForTokenClassification', 'ForQuestionAnswering']


def make(kind, architecture, folder):
    name, fields = KINDS[kind]
    config = getattr(transformers, f'{name}Config')(**SIZES | fields)
    theirs = reference.save(getattr(transformers, name + architecture)(config), folder)
    return theirs, reference.load(folder)


def sides(**lengths):
    ids, mask = reference.tokens(99, **lengths)
    inputs = dict(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))
    return ids, mask, inputs, lambda model: model.decode(ids, segments=mask)[0]


@pytest.mark.parametrize('kind', KINDS)
def test_logits_loss_and_gradients(kind, tmp_path):
    theirs, ours = make(kind, 'ForCausalLM', tmp_path / 'theirs')
    ids, mask, inputs, hidden = sides(lengths=(70, 41, 1), width=70)
    reference.compare(
        ours,
        theirs,
        lambda model: model.logits(hidden(model)),
        lambda model: model(**inputs).logits,
        *reference.targets(ids.shape, 99, mask),
    )
    reference.round_trip(ours, theirs, tmp_path / 'ours')


@pytest.mark.parametrize('kind', ['llama', 'qwen 3', 'mistral'])
@pytest.mark.parametrize('architecture', HEADS)
def test_heads(kind, architecture, tmp_path):
    theirs, ours = make(kind, architecture, tmp_path / 'theirs')
    ids, mask, inputs, hidden = sides()
    last = mask.sum(1) - 1
    forward, output, goal = {
        'Model': (hidden, 'last_hidden_state', (ids.shape, 32, mask)),
        'ForSequenceClassification': (
            lambda model: model.heads['classifier'](hidden(model)[np.arange(3), last]),
            'logits',
            (3, 5),
        ),
        'ForTokenClassification': (
            lambda model: model.heads['tagger'](hidden(model)),
            'logits',
            (ids.shape, 5, mask),
        ),
        'ForQuestionAnswering': (
            lambda model: model.heads['span'](hidden(model)),
            None,
            (ids.shape, 2, mask),
        ),
    }[architecture]
    both_ends = lambda found: torch.stack([found.start_logits, found.end_logits], -1)
    reference.compare(
        ours,
        theirs,
        forward,
        lambda model: both_ends(model(**inputs)) if output is None else model(**inputs)[output],
        *reference.targets(*goal),
    )
    if architecture != 'Model':
        reference.round_trip(ours, theirs, tmp_path / 'ours')


@pytest.mark.parametrize(
    'kind, change, words',
    [
        ('llama', dict(attention_bias=True), 'attention_bias=True'),
        ('llama', dict(mlp_bias=True), 'mlp_bias=True'),
        ('llama', dict(rope_scaling=dict(type='yarn', factor=2.0)), "rope_type='yarn'"),
        ('llama', dict(rope_scaling=dict(rope_type='llama3', factor=2.0)), 'low_freq_factor'),
        ('qwen3', dict(use_sliding_window=True, sliding_window=9, max_window_layers=2), 'windows'),
    ],
)
def test_what_the_model_has_not_is_refused(kind, change, words):
    with pytest.raises(ConfigError, match=words):
        families.find(kind).to_model(SIZES | change)


def test_fields_of_transformers_before_5_are_read():
    old = dict(SIZES, rope_theta=5e5, rope_scaling=dict(LLAMA3, type='llama3'))
    del old['rope_scaling']['rope_theta'], old['rope_scaling']['rope_type']
    found = families.find('llama').to_model(old).positions
    assert found == Rope(base=5e5, scaling=Llama3Scaling(factor=8.0, low=1.0, high=4.0, length=150))


CASES = {name: 'qwen3' for name in presets.__all__ if name.startswith('qwen3')}
CASES |= {name: 'llama' for name in presets.__all__ if name.startswith('llama')}


@pytest.mark.parametrize('name', CASES)
def test_presets_are_described_wholly(name):
    model = getattr(presets, name)()
    family = architectures.family_of(model)
    assert family.model_type == CASES[name]
    assert architectures.differences(family.to_model(family.to_fields(model)), model) == []


def test_a_window_makes_a_mistral():
    model = presets.llama3_8b(local=Local(reach=4095))
    assert architectures.family_of(model).model_type == 'mistral'
