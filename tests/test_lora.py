"""LoRA: identity at birth, only adapters learn, merged is unmerged, counts as published."""
# SPDX-License-Identifier: Apache-2.0

import fixtures
import jax
import numpy as np
import pytest

from t5x_lite import frozen, sharding, step
from t5x_lite.errors import ConfigError
from t5x_lite.tuning import lora
from t5x_lite.tuning.lora import Lora

SMALL = dict(embed=16, mlp=32, heads=2, encoder_layers=3, decoder_layers=0)


def experiment(**fields):
    return fixtures.experiment('mlm', batch_size=8, model=SMALL, **fields)


def hidden(experiment, params):
    (batches,) = fixtures.batches(experiment, 1)
    tokens = batches['mlm']['encoder_input_tokens']
    return np.asarray(step.model_of(experiment)(params).encode(tokens))


def test_at_birth_nothing_changes_then_only_adapters_learn_and_merged_is_unmerged():
    plain, adapted = experiment(), experiment(adapt=Lora(rank=2, alpha=8.0, heads=False))
    mesh = sharding.make_mesh(adapted.mesh, jax.devices()[:1])
    state = step.make_init(adapted, mesh)()
    before = {path: np.asarray(x) for path, x in frozen.flat(state.params).items()}
    base = lora.merge(state.params, 4.0)
    assert jax.tree.structure(base) == jax.tree.structure(step.abstract_params(plain))
    np.testing.assert_array_equal(hidden(plain, base), hidden(adapted, state.params))
    train_step = step.make_train_step(adapted, mesh)
    for batches in fixtures.batches(adapted, 2):
        placed = {name: sharding.put_batch(batch, mesh) for name, batch in batches.items()}
        state, _ = train_step(state, placed)
    moved = {p for p, x in frozen.flat(state.params).items() if (before[p] != np.asarray(x)).any()}
    assert moved == set(lora.adapters(state.params))
    after = hidden(adapted, state.params)
    assert np.abs(after - hidden(plain, base)).max() > 1e-3
    merged = lora.merge(state.params, 4.0)
    np.testing.assert_allclose(hidden(plain, merged), after, rtol=1e-4, atol=1e-5)


def learned(one) -> int:
    params = step.abstract_params(one)
    return sum(x.size for x in jax.tree.leaves(frozen.split(params, frozen.starts(one, params))[0]))


def test_a_pattern_with_numbers_trains_the_adapters_of_those_layers():
    one = experiment(adapt=Lora(pattern='blocks/[12]/attention/query/', rank=2, heads=False))
    assert learned(one) == 2 * (16 * 2 + 2 * 16)


def test_a_target_that_is_no_linear_layer_is_refused():
    for pattern in ('token_embedding', 'attention_norm'):
        with pytest.raises(ConfigError, match='which is no linear layer'):
            step.abstract_model(experiment(adapt=Lora(pattern=pattern)))
    with pytest.raises(ConfigError, match="'attention/qeury/' is found in no parameter"):
        step.abstract_model(experiment(adapt=Lora(pattern='attention/qeury/')))


@pytest.mark.parametrize(
    'sizes, rank, published',
    [
        (dict(encoder_layers=12, decoder_layers=0, embed=768, heads=12, mlp=3072), 8, 294_912),
        (dict(encoder_layers=0, decoder_layers=24, embed=1024, heads=16, mlp=4096), 4, 393_216),
    ],
)
def test_as_many_parameters_learn_as_published(sizes, rank, published):
    """RoBERTa base 0.3 M (Hu et al. 2021, table 2); GPT-2 medium 24 x 2 x 2 x 1024 x 4."""
    name = 'mlm' if sizes['encoder_layers'] else 'clm'
    adapt = Lora(rank=rank, heads=False)
    assert learned(fixtures.experiment(name, model=sizes, adapt=adapt)) == published
