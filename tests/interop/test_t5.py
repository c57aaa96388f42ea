"""T5 1.0, T5 1.1, mT5 and umT5: every head's logits, loss and gradients are transformers'."""
# SPDX-License-Identifier: Apache-2.0

import json

import pytest
import reference
from reference import torch, transformers

from t5x_lite.errors import ConfigError
from t5x_lite.interop import architectures, families
from t5x_lite.model import presets

SIZES = dict(
    vocab_size=99,
    d_model=32,
    d_kv=6,
    d_ff=48,
    num_layers=3,
    num_decoder_layers=2,
    num_heads=4,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=9,
    num_labels=5,
)
GATED = dict(feed_forward_proj='gated-gelu', tie_word_embeddings=False)
# kind -> (transformers' name, what its config has, tolerance)
KINDS = {
    't5 1.0': ('T5', {}, 1e-4),
    't5 1.1': ('T5', GATED, 5e-4),
    'mt5': ('MT5', GATED, 5e-4),
    'umt5': ('UMT5', GATED, 5e-4),
}
every_kind = pytest.mark.parametrize('kind', KINDS)
first_and_per_layer = pytest.mark.parametrize('kind', ['t5 1.0', 'umt5'])


def make(kind: str, architecture: str, folder, untied: bool = True, **more):
    name, fields, _ = KINDS[kind]
    config = getattr(transformers, f'{name}Config')(**SIZES | fields | more)
    model = getattr(transformers, name + architecture)(config)
    if untied and fields and hasattr(model, 'lm_head'):
        untie(model)
    theirs = reference.save(model, folder)
    return theirs, reference.load(folder)


def config_of(ours):
    return ours.source.family.to_model(ours.source.fields)


def untie(model) -> None:
    """As in the published files of T5 1.1: transformers 5 itself makes tied models only."""
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    model._tied_weights_keys = {
        k: v for k, v in model._tied_weights_keys.items() if k != 'lm_head.weight'
    }
    model.all_tied_weights_keys.pop('lm_head.weight', None)


@every_kind
def test_logits_loss_and_gradients(kind, tmp_path):
    theirs, ours = make(kind, 'ForConditionalGeneration', tmp_path / 'theirs')
    outs, out_mask, inputs, hidden = reference.pair(99, 24)  # far beyond the relative distance
    reference.compare(
        ours,
        theirs,
        lambda model: model.logits(hidden(model)),
        lambda model: model(**inputs).logits,
        *reference.targets(outs.shape, 99, out_mask),
        KINDS[kind][2],
    )
    reference.round_trip(ours, theirs, tmp_path / 'ours')


@first_and_per_layer
def test_the_bare_model(kind, tmp_path):
    theirs, ours = make(kind, 'Model', tmp_path / 'theirs')
    outs, out_mask, inputs, hidden = reference.pair(99)
    reference.compare(
        ours,
        theirs,
        hidden,
        lambda model: model(**inputs).last_hidden_state,
        *reference.targets(outs.shape, 32, out_mask),
        KINDS[kind][2],
    )


@first_and_per_layer
def test_the_encoder_alone(kind, tmp_path):
    theirs, ours = make(kind, 'EncoderModel', tmp_path / 'theirs')
    assert ours.model(ours.arrays).decoder is None
    ids, mask = reference.tokens(99)
    inputs = dict(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))
    reference.compare(
        ours,
        theirs,
        lambda model: model.encode(ids, segments=mask),
        lambda model: model(**inputs).last_hidden_state,
        *reference.targets(ids.shape, 32, mask),
        KINDS[kind][2],
    )
    reference.round_trip(ours, theirs, tmp_path / 'ours')


@first_and_per_layer
def test_a_class_per_token(kind, tmp_path):
    theirs, ours = make(kind, 'ForTokenClassification', tmp_path / 'theirs')
    ids, mask = reference.tokens(99)
    inputs = dict(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))
    reference.compare(
        ours,
        theirs,
        lambda model: model.heads['tagger'](model.encode(ids, segments=mask)),
        lambda model: model(**inputs).logits,
        *reference.targets(ids.shape, 5, mask),
        KINDS[kind][2],
    )
    reference.round_trip(ours, theirs, tmp_path / 'ours')


@first_and_per_layer
def test_a_class_per_row_from_the_decoder_where_the_inputs_end(kind, tmp_path):
    theirs, ours = make(kind, 'ForSequenceClassification', tmp_path / 'theirs')
    _, _, inputs, hidden = reference.pair(99, eos=1)
    reference.compare(
        ours,
        theirs,
        lambda model: model.heads['classifier'](hidden(model)[:, 0]),
        lambda model: model(**inputs).logits,
        *reference.targets(3, 5),
        KINDS[kind][2],
    )
    reference.round_trip(ours, theirs, tmp_path / 'ours')


@every_kind
def test_both_ends_of_a_span_from_the_decoder(kind, tmp_path):
    theirs, ours = make(kind, 'ForQuestionAnswering', tmp_path / 'theirs', num_labels=2)
    outs, out_mask, inputs, hidden = reference.pair(99)
    reference.compare(
        ours,
        theirs,
        lambda model: model.heads['span'](hidden(model)),
        lambda model: (lambda out: torch.stack([out.start_logits, out.end_logits], -1))(
            model(**inputs)
        ),
        *reference.targets(outs.shape, 2, out_mask),
        KINDS[kind][2],
    )
    reference.round_trip(ours, theirs, tmp_path / 'ours')


def test_tied_and_scaled_are_known_from_old_files_and_new_ones(tmp_path):
    _, ours = make('t5 1.1', 'ForConditionalGeneration', tmp_path / 'tied', untied=False)
    found = config_of(ours)
    assert found.tied and not found.scale_logits  # what transformers 5 makes
    _, ours = make('t5 1.1', 'ForConditionalGeneration', tmp_path / 'own')
    found = config_of(ours)
    assert not found.tied and not found.scale_logits
    file = tmp_path / 'own' / 'config.json'
    old = json.loads(file.read_text()) | dict(tie_word_embeddings=False)
    del old['scale_decoder_outputs']
    file.write_text(json.dumps(old))
    assert architectures.differences(config_of(reference.load(tmp_path / 'own')), found) == []
    _, ours = make('t5 1.0', 'ForConditionalGeneration', tmp_path / 'first')
    found = config_of(ours)
    assert found.tied and found.scale_logits


def test_scaled_logits_of_a_matrix_of_its_own_are_refused(tmp_path):
    with pytest.raises(ConfigError, match='scale_decoder_outputs'):
        make('t5 1.1', 'ForConditionalGeneration', tmp_path, tie_word_embeddings=True)


def test_the_tied_copy_of_old_files_is_no_stranger(tmp_path):
    theirs, _ = make('t5 1.0', 'ForConditionalGeneration', tmp_path)
    from safetensors.torch import save_file

    tensors = {name: x.contiguous().clone() for name, x in theirs.state_dict().items()}
    assert {'lm_head.weight', 'encoder.embed_tokens.weight'} <= tensors.keys()
    save_file(tensors, tmp_path / 'model.safetensors')
    reference.load(tmp_path)


@pytest.mark.parametrize('name', [n for n in presets.__all__ if 't5' in n])
def test_presets_are_described_wholly(name):
    model = getattr(presets, name)()
    family = architectures.family_of(model)
    assert family.model_type == {'mt5': 'mt5', 'umt5': 'umt5'}.get(name.split('_')[0], 't5')
    for kind in {family.model_type, 'umt5' if name.startswith('u') else 't5'}:
        family = families.find(kind)
        assert architectures.differences(family.to_model(family.to_fields(model)), model) == []
