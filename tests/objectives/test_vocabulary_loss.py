"""Chunks of the vocabulary's scores change no number and are never held together."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import step
from t5x_lite.experiment import Experiment, Stream
from t5x_lite.model.config import ModelConfig
from t5x_lite.objectives import vocabulary_loss
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.objectives.losses import TokenLoss, cross_entropy
from t5x_lite.objectives.mlm import mlm
from t5x_lite.optim import AdamW
from t5x_lite.sharding import MeshShape, make_mesh

B, L, D, V = 3, 37, 16, 50
RNG = np.random.default_rng(0)
HIDDEN, TABLE, BIAS = (
    jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in ((B, L, D), (V, D), (V,))
)
TARGETS = jnp.asarray(RNG.integers(0, V, (B, L)))
COUNTS = jnp.asarray(RNG.random((B, L, 2)) > 0.3, jnp.float32)


def loss_and_gradients(limit, dtype=jnp.float32, **options):
    losses = functools.partial(cross_entropy, **options)

    def loss(hidden, table, bias):
        score = lambda x: jnp.einsum('BLD,VD->BLV', x, table.astype(dtype)) + bias[None, None]
        args = hidden.astype(dtype), TARGETS, COUNTS, limit
        total, nll, right = vocabulary_loss.sums(score, losses, *args)
        return 0.3 * total, (nll, right)

    grad = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    return jax.jit(grad)(HIDDEN, TABLE, BIAS)


def assert_near(found, expected, of_largest: float):
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=of_largest * float(jnp.abs(y).max()))


@pytest.mark.one
@pytest.mark.parametrize('limit', [4000, 1500, 700, 1])
@pytest.mark.parametrize('smoothing', ['t5x', 'uniform'])
def test_chunks_change_neither_sums_nor_gradients(limit, smoothing):
    options = dict(z_loss=1e-2, label_smoothing=0.1, smoothing=smoothing)
    assert vocabulary_loss.pieces((B, L, V), limit) > 1
    whole = loss_and_gradients(10**9, **options)
    assert_near(loss_and_gradients(limit, **options), whole, 1e-6)


def test_hidden_states_in_bfloat16_get_gradients_of_their_type():
    found = loss_and_gradients(700, jnp.bfloat16)
    assert_near(found, loss_and_gradients(10**9, jnp.bfloat16), 1e-2)


def test_without_a_gradient_the_sums_are_the_same():
    score = lambda x: jnp.einsum('BLD,VD->BLV', x, TABLE) + BIAS[None, None]
    args = score, cross_entropy, HIDDEN, TARGETS, COUNTS
    expected, found = (jax.jit(lambda n=n: vocabulary_loss.sums(*args, n))() for n in (10**9, 700))
    assert_near(found, expected, 1e-6)


def test_a_row_is_cut_into_as_many_chunks_as_the_limit_asks():
    assert [vocabulary_loss.pieces((2, 10, 5), n) for n in (100, 99, 50, 49, 9)] == [1, 2, 2, 3, 10]


def test_scores_are_never_held_together():
    sizes = dict(vocab=5_000, embed=16, heads=2, mlp=16, decoder_layers=1)

    def temporaries(limit):
        objective = causal_lm()
        term = dataclasses.replace(objective.terms['causal_lm'], loss=TokenLoss(limit=limit))
        objective = dataclasses.replace(objective, terms={'causal_lm': term})
        e = experiment(ModelConfig(**sizes), objective, batch_size=8, length=64)
        mesh = make_mesh(e.mesh, jax.devices()[:1])
        args = step.abstract_state(e, mesh), step.abstract_batches(e, mesh)
        compiled = step.make_train_step(e, mesh).lower(*args).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    scores = 4 * 8 * 64 * 5_000
    assert temporaries(10**9) > scores
    assert temporaries(8 * 8 * 5_000) < scores / 2


def experiment(model, objective, *, batch_size, length, **fields):
    stream = Stream(
        mixture='none', objective=objective, lengths={'targets': length}, batch_size=batch_size
    )
    rate = AdamW(learning_rate=1e-3)
    return Experiment(model=model, streams={'s': stream}, optimizer=rate, steps=2, **fields)


@pytest.mark.one
@pytest.mark.parametrize(
    'mesh', [MeshShape(), MeshShape(data=2, fsdp=2, model=2), MeshShape(context=2, model=2)]
)
def test_a_step_in_chunks_is_the_step_on_any_mesh(mesh):
    model = ModelConfig(
        vocab=64, embed=16, heads=2, mlp=16, encoder_layers=1, vocab_multiple=8, tied=False
    )
    objective = mlm(rate=0.3)
    rng = np.random.default_rng(1)
    batch = {
        name: rng.integers(1, 60, (8, *shape)).astype(dtype)
        for name, (shape, dtype) in objective.converter.spec({'targets': 16}).items()
    }
    batch['encoder_predicted_positions'] %= 16
    batch['encoder_segment_ids'] = np.ones((8, 16), np.int32)
    batch['encoder_positions'] = np.arange(16, dtype=np.int32)[None].repeat(8, 0)

    def gradients(limit, mesh):
        term = dataclasses.replace(
            objective.terms['mlm'], loss=TokenLoss(side='encoder', limit=limit)
        )
        limited = dataclasses.replace(objective, terms={'mlm': term})
        e = experiment(model, limited, batch_size=8, length=16, mesh=mesh)
        own = make_mesh(mesh)
        state = step.make_init(e, own)()
        state, means = step.make_train_step(e, own)(state, {'s': batch})
        return means['s/loss'].value, means['grad_norm'].value

    assert_near(gradients(100, mesh), gradients(10**9, MeshShape()), 1e-5)
