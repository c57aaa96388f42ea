"""ELECTRA: every head's logits, loss and gradients are those of transformers."""
# SPDX-License-Identifier: Apache-2.0

import jax.numpy as jnp
import numpy as np
import pytest
import reference
from reference import torch, transformers

from t5x_lite import checkpoint, run, step
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Experiment, Stream
from t5x_lite.interop import architectures, exchange
from t5x_lite.model import presets
from t5x_lite.objectives.replaced_tokens import electra
from t5x_lite.optim import AdamW

SIZES = dict(
    vocab_size=99,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=24,
)
# architecture -> (head, a score per token or per row, classes, how the head is applied)
HEADS = {
    'ElectraForPreTraining': (
        'discriminator',
        'token',
        2,
        lambda m, x: two_classes(m.heads['discriminator'](x)),
    ),
    'ElectraForMaskedLM': ('mlm', 'token', 99, lambda m, x: m.heads['mlm'](x, m)),
    'ElectraForSequenceClassification': (
        'classifier',
        'row',
        5,
        lambda m, x: m.heads['classifier'](x[:, 0]),
    ),
    'ElectraForTokenClassification': ('tagger', 'token', 5, lambda m, x: m.heads['tagger'](x)),
    'ElectraForQuestionAnswering': ('span', 'token', 2, lambda m, x: m.heads['span'](x)),
}


def two_classes(logits_BxLx1):
    """Whose cross-entropy is that of a binary decision by the logit."""
    return jnp.concatenate([jnp.zeros_like(logits_BxLx1), logits_BxLx1], -1)


def scores(out):
    scores = reference.scores(out)
    if scores.ndim == 2 and type(out).__name__ == 'ElectraForPreTrainingOutput':
        return torch.stack([torch.zeros_like(scores), scores], -1)
    return scores


# As wide as the layers, a table has no projection: a BERT but for the heads that only ELECTRA has.
CASES = [(kind, 24) for kind in HEADS]
CASES += [('ElectraForPreTraining', 32), ('ElectraForSequenceClassification', 32)]


@pytest.mark.parametrize('kind,width', CASES)
def test_logits_loss_and_gradients(kind, width, tmp_path):
    head, per, classes, apply = HEADS[kind]
    labels = 2 if head == 'span' else 5
    sizes = dict(SIZES, embedding_size=width, hidden_size=32, num_labels=labels)
    config = transformers.ElectraConfig(**sizes)
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
        lambda model: scores(model(**inputs)),
        *reference.targets(*((ids.shape, classes, mask) if per == 'token' else (3, classes))),
    )
    reference.round_trip(ours, theirs, tmp_path / 'ours')


def test_configs_and_presets_are_the_same_in_both_notations():
    narrow = ('electra_small', 'electra_base_generator', 'electra_large_generator')
    reference.same_presets('electra', narrow)


@pytest.mark.parametrize('name', ['electra_base', 'electra_large'])
def test_heads_tell_an_electra_from_a_bert_of_its_shape(name):
    model = getattr(presets, name)()
    family = reference.family('electra')
    assert architectures.differences(family.to_model(family.to_fields(model)), model) == []
    own = {'discriminator': family.heads['discriminator'].build(2)}
    assert architectures.family_of(model, own).model_type == 'electra'
    assert architectures.family_of(model).model_type == 'bert'
    shared = {'mlm': family.heads['mlm'].build(2)}
    assert architectures.family_of(model, shared).model_type == 'bert'


def test_a_trained_discriminator_loads_in_transformers_without_its_generator(tmp_path):
    model = presets.electra_small(
        vocab=64, encoder_layers=2, embed=32, embedding_size=24, mlp=48, dropout=0.0
    )
    stream = Stream(mixture='none', objective=electra(), lengths={'targets': 16}, batch_size=16)
    own = Experiment(
        model=model, streams={'electra': stream}, optimizer=AdamW(learning_rate=0.1), steps=1
    )
    state = step.init_state(own)
    run.claim(tmp_path / 'run', own, 'electra')
    checkpoint.write_params(tmp_path / 'run' / 'checkpoints', state.params)
    told = exchange.export_run(tmp_path / 'run', tmp_path / 'out')
    assert 'left out: generator, a part of training alone' in told.splitlines()
    theirs, loaded = transformers.ElectraForPreTraining.from_pretrained(
        tmp_path / 'out', output_loading_info=True
    )
    assert not any(loaded.values())
    ids, mask = reference.tokens(64)
    ours = step.model_of(own)(state.params)
    logits = ours.heads['discriminator'](ours.encode(ids, segments=mask))[..., 0]
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(ids), attention_mask=torch.tensor(mask)).logits
    np.testing.assert_allclose(logits[mask > 0], expected[mask > 0], atol=1e-5)
    with pytest.raises(ConfigError, match='--head generator: the run has no such head'):
        exchange.export_run(tmp_path / 'run', tmp_path / 'two', heads=['generator'])
