"""LoRA: identity at birth, only adapters learn, merged is unmerged, counts as published."""
# SPDX-License-Identifier: Apache-2.0

import fixtures
import jax
import numpy as np
import pytest
from flax import nnx

from t5x_lite import frozen, sharding, step
from t5x_lite.errors import ConfigError
from t5x_lite.model.adapters import LowRank, dropping
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


def test_a_pattern_of_layers_that_ends_in_an_array_is_refused():
    """An adapter has no kernel: it would be added and never learn."""
    pattern = 'blocks/1/attention/query/kernel|blocks/2/attention/value'
    one = experiment(adapt=Lora(pattern=pattern))
    with pytest.raises(ConfigError, match="last name, 'kernel', .*end the pattern at the layer"):
        step.abstract_params(one)


def test_adapters_that_never_learn_are_refused():
    one = experiment(adapt=Lora(), trainable=(('^heads/', True), ('.*', False)))
    with pytest.raises(ConfigError, match='lets nothing of adapt=Lora.* learn'):
        learned(one)


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


def encoder_of(adapt):
    """Hidden states of one batch as a function of a key; what adapters add is no 0."""
    one = experiment(adapt=adapt)
    leaves = frozen.flat(fixtures.params(one))
    ups = {p: jax.random.normal(jax.random.key(1), x.shape) for p, x in leaves.items()}
    params = frozen.unflat({p: ups[p] if p.endswith('/up') else x for p, x in leaves.items()})
    (batches,) = fixtures.batches(one, 1)
    tokens = batches['mlm']['encoder_input_tokens']
    return jax.jit(lambda key: step.model_of(one)(params).encode(tokens, key=key))


def test_dropout_changes_hidden_states_with_a_key_and_none_without():
    plain, dropped = (encoder_of(Lora(rank=2, dropout=rate)) for rate in (0.0, 0.5))
    np.testing.assert_array_equal(dropped(None), plain(None))
    first, second = (np.asarray(dropped(jax.random.key(seed))) for seed in (0, 1))
    assert min(np.abs(first - x).max() for x in (second, plain(None))) > 1e-3


class Two(nnx.Module):
    """Two adapters that give the first place of their input."""

    def __init__(self, rate):
        kernel = nnx.Param(np.zeros((64, 1)), axes=('embed', 'mlp'), units=(64, 1))
        make = lambda: nnx.data(LowRank(kernel, 1, 1.0, jax.random.key(0), dropout=rate))
        self.a, self.b = make(), make()
        for one in (self.a, self.b):
            one.down[...] = np.eye(64, 1, dtype=np.float32)
            one.up[...] = np.ones((1, 1), np.float32)

    def __call__(self, x, key):
        own = dropping(self, key)
        return own.a(x), own.b(x)


def test_each_adapter_drops_from_a_key_of_its_own_the_same_on_every_mesh():
    two, key, x = Two(0.25), jax.random.key(3), np.ones((4000, 64), np.float32)
    a, b = (np.asarray(y) for y in two(x, key))
    for y in (a, b):
        assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(0.75)}
        np.testing.assert_allclose(y.mean(), 1.0, atol=0.04)
    assert 0.3 < (a != b).mean() < 0.45  # 2 * 0.25 * 0.75, were they independent
    mesh = jax.make_mesh((4, 2), ('rows', 'columns'))
    where = jax.NamedSharding(mesh, jax.P('rows', 'columns'))
    apart = jax.jit(lambda x, key: two(x, key))(jax.device_put(x, where), key)
    for found, expected in zip(apart, (a, b), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert dropping(two, None) is two and dropping(Two(0.0), key).a.dropout == 0.0


def test_no_adapter_draws_from_a_key_that_its_block_uses():
    key, bits = jax.random.key(3), lambda key: tuple(jax.random.key_data(key).tolist())
    own = dropping(Two(0.25), key)
    used = {bits(key), *(bits(k) for k in jax.random.split(key, 6))}
    assert len({bits(own.a.key), bits(own.b.key)} - used) == 2


def test_dropout_outside_blocks_and_rates_that_are_none_are_refused():
    with pytest.raises(ConfigError, match='works inside blocks, but .* heads/mlm/dense'):
        step.abstract_model(experiment(adapt=Lora(pattern='heads/mlm/dense', dropout=0.1)))
    with pytest.raises(ConfigError, match=r'dropout=1\.0 must be a number from 0 to below 1'):
        Lora(dropout=1.0)
