"""BART: every head's logits, loss and gradients are those of transformers."""
# SPDX-License-Identifier: Apache-2.0

import pytest
import reference
from reference import torch, transformers
from safetensors.numpy import load_file, save_file

from t5x_lite.errors import ConfigError
from t5x_lite.interop import architectures, families
from t5x_lite.model import presets

SIZES = dict(
    vocab_size=99,
    d_model=32,
    encoder_layers=3,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=48,
    decoder_ffn_dim=48,
    max_position_embeddings=24,
)
# architecture -> (heads, output, labels, classes, a score per token, how it is applied)
HEADS = {
    'BartForConditionalGeneration': ([], 'logits', 5, 99, True, lambda m, x: m.logits(x)),
    'BartModel': ([], 'last_hidden_state', 5, 32, True, lambda m, x: x),
    'BartForSequenceClassification': (
        ['classifier'],
        'logits',
        2,  # not BART's default of 3: must be written
        2,
        False,
        lambda m, x: m.heads['classifier'](x[:, 0]),
    ),
    'BartForQuestionAnswering': (
        ['span'],
        None,
        2,
        2,
        True,
        lambda m, x: m.heads['span'](x),
    ),
}


def make(kind, folder, **more):
    config = transformers.BartConfig(**SIZES | dict(num_labels=HEADS[kind][2]) | more)
    return reference.save(getattr(transformers, kind)(config), folder)


def both_ends(found):
    return torch.stack([found.start_logits, found.end_logits], -1)


@pytest.mark.parametrize('kind', HEADS)
def test_logits_loss_and_gradients(kind, tmp_path):
    heads, output, _, classes, per_token, apply = HEADS[kind]
    theirs = make(kind, tmp_path / 'theirs')
    ours = reference.load(tmp_path / 'theirs')
    assert list(ours.heads) == heads
    outs, out_mask, inputs, hidden = reference.pair(99, eos=2)
    reference.compare(
        ours,
        theirs,
        lambda model: apply(model, hidden(model)),
        lambda model: both_ends(model(**inputs)) if output is None else model(**inputs)[output],
        *reference.targets(*((outs.shape, classes, out_mask) if per_token else (3, classes))),
    )
    if kind != 'BartModel':  # written as the architecture with the language model's head
        reference.round_trip(ours, theirs, tmp_path / 'ours')


def test_three_labels_are_barts_default(tmp_path):
    theirs = make('BartForSequenceClassification', tmp_path / 'theirs', num_labels=3)
    ours = reference.load(tmp_path / 'theirs')
    assert ours.heads['classifier'].labels == 3
    reference.round_trip(ours, theirs, tmp_path / 'ours')


def test_a_bias_of_the_vocabulary_is_refused(tmp_path):
    make('BartForConditionalGeneration', tmp_path)
    tensors = load_file(tmp_path / 'model.safetensors')
    tensors['final_logits_bias'][0, 7] = 0.5
    save_file(tensors, tmp_path / 'model.safetensors')
    with pytest.raises(ConfigError, match='final_logits_bias is not zero'):
        reference.load(tmp_path)


@pytest.mark.parametrize(
    'change', [dict(scale_embedding=True), dict(decoder_ffn_dim=64), dict(normalize_before=True)]
)
def test_what_the_model_has_not_is_refused(change):
    with pytest.raises(ConfigError, match=f'{next(iter(change))}='):
        families.find('bart').to_model(SIZES | change)


@pytest.mark.parametrize('name', ['bart_base', 'bart_large'])
def test_presets_are_described_wholly(name):
    model = getattr(presets, name)()
    family = architectures.family_of(model)
    assert family.model_type == 'bart'
    assert architectures.differences(family.to_model(family.to_fields(model)), model) == []
