"""An int8 base: rounded by at most half a step, loaded from float32, never learned, merged back."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import fixtures
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import beginning, checkpoint, frozen, sharding, sharding_table, step
from t5x_lite.errors import ConfigError
from t5x_lite.tuning import int8_base, lora
from t5x_lite.tuning.lora import Lora
from t5x_lite.warm_start import from_checkpoint

SMALL = dict(embed=16, mlp=32, heads=2, encoder_layers=2, decoder_layers=0)
INT8 = Lora(rank=2, alpha=8.0, heads=False, int8_base=True)
KERNEL = 'encoder/blocks/mlp/wide/kernel'


def experiment(**fields):
    return fixtures.experiment('mlm', batch_size=8, model=SMALL, **fields)


def hidden(one, params):
    (batches,) = fixtures.batches(one, 1)
    return np.asarray(step.model_of(one)(params).encode(batches['mlm']['encoder_input_tokens']))


def test_columns_by_literal():
    kernel = jnp.array([[[127.0, 0.0, -0.5], [-63.6, 0.0, 0.25]]])
    values, scale = int8_base.quantised(kernel)
    np.testing.assert_array_equal(values, [[[127, 0, -127], [-64, 0, 64]]])
    np.testing.assert_allclose(scale, [[1.0, 1.0, 0.5 / 127]])
    assert values.dtype == jnp.int8


def test_a_loaded_base_is_rounded_once_stays_as_it_is_and_merges_to_what_it_computes(tmp_path):
    plain = experiment()
    base = fixtures.params(plain)
    checkpoint.write_params(tmp_path / 'checkpoints', base)
    shape = sharding.MeshShape(data=2, fsdp=2, model=2)
    one = experiment(adapt=INT8, init=from_checkpoint(str(tmp_path)), mesh=shape)
    mesh = sharding.make_mesh(one.mesh)
    state = step.start_from(one, mesh, beginning.open_init(one))
    before = {path: np.asarray(x) for path, x in frozen.flat(state.params).items()}
    whole, rounded = frozen.flat(base), frozen.flat(lora.merge(state.params, 4.0))
    assert rounded.keys() == whole.keys()
    for path in int8_base.kernels(whole):
        assert before[path].dtype == np.int8
        half = before[path + '_scale'][..., None, :] / 2
        assert (np.abs(rounded[path] - whole[path]) <= half * 1.0001).all()
    for path in whole.keys() - set(int8_base.kernels(whole)):
        np.testing.assert_array_equal(rounded[path], whole[path])
    train_step = step.make_train_step(one, mesh)
    for batches in fixtures.batches(one, 2):
        placed = {name: sharding.put_batch(batch, mesh) for name, batch in batches.items()}
        state, _ = train_step(state, placed)
    after = frozen.flat(state.params)
    moved = {path for path, x in after.items() if (before[path] != np.asarray(x)).any()}
    assert moved == set(lora.adapters(state.params))
    merged = hidden(plain, lora.merge(state.params, 4.0))
    np.testing.assert_allclose(merged, hidden(one, state.params), rtol=1e-4, atol=1e-5)


def test_blocks_take_a_quarter_of_the_bytes():
    def size(adapt):
        one = experiment(adapt=adapt)
        rows = sharding_table.rows(one, sharding_table.abstract_mesh(one, 1))
        return next(row.bytes for row in rows if row.path == KERNEL)

    assert size(None) == 4 * size(INT8) == 4 * 2 * 16 * 32


def test_an_int8_base_shall_not_learn_and_is_merged_before_another_run_begins_with_it(tmp_path):
    with pytest.raises(ConfigError, match='is a base that cannot learn'):
        experiment(adapt=INT8, trainable=(('.*', True),))
    checkpoint.write_params(tmp_path / 'checkpoints', fixtures.params(experiment(adapt=INT8)))
    again = dataclasses.replace(experiment(adapt=INT8), init=from_checkpoint(str(tmp_path)))
    with pytest.raises(ConfigError, match='has its base in int8; merge it first'):
        beginning.open_init(again)
