"""The hand-written step of benchmarks.plain_step computes what the library's step computes."""
# SPDX-License-Identifier: Apache-2.0

import jax
import numpy as np
import pytest

from benchmarks import plain_models, plain_step
from benchmarks.random_tokens import make_experiment
from benchmarks.step import parse

TINY = ['--batch', '8', '--length', '32', '--set', 'optimizer.clip=1.0']
TINY += [f'--set=model.{field}' for field in ('embed=32', 'heads=2', 'mlp=64', 'dropout=0.0')]
TINY += ['--set=model.vocab=256']
LAYERS = {
    'gpt2_small': ['model.decoder_layers=2'],
    'bert_mini': ['model.encoder_layers=2'],
    't5_1_1_small': ['model.encoder_layers=2', 'model.decoder_layers=2', 'model.head_size=16'],
}


def steps_of(preset: str) -> dict:
    experiment = make_experiment(parse(['--preset', preset, *TINY, '--set', *_changes(preset)]))
    return plain_step.contestants(preset, experiment)


def _changes(preset):
    first, *rest = LAYERS[preset]
    return [first, *(part for change in rest for part in ('--set', change))]


@pytest.mark.parametrize('preset', plain_step.LOSSES)
def test_both_steps_have_equal_losses_and_gradients_over_five_updates(preset):
    steps = steps_of(preset)
    assert steps['plain'].parameters == steps['t5x_lite'].parameters
    found = plain_step.agree(steps, 5)
    for values in found.values():
        ours, plain = np.array(values).T
        np.testing.assert_allclose(ours, plain, rtol=2e-5)
    losses = [ours for ours, _ in found['loss']]
    assert losses[4] < losses[0]


def test_a_step_that_differs_is_refused():
    steps = steps_of('gpt2_small')
    params = steps['plain'].state.params
    params['decoder']['norm']['bias'] = params['decoder']['norm']['bias'] + 0.1
    with pytest.raises(RuntimeError, match='of the library'):
        plain_step.agree(steps, 1)


def test_gradients_in_chunks_are_those_of_all_scores_at_once(monkeypatch):
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = jax.random.normal(keys[0], (30, 8))
    table, bias = jax.random.normal(keys[1], (50, 8)), jax.random.normal(keys[2], (50,))
    targets = jax.random.randint(keys[3], (30,), 0, 50)
    weights = (np.arange(30) % 3 > 0).astype(np.float32)

    def loss(*args):
        return plain_models.token_losses(*args, targets, weights)

    grad = lambda *args: jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*args)
    whole = grad(hidden, table, bias)
    monkeypatch.setattr(plain_models, 'MOST_SCORES', 400)
    chunked = grad(hidden, table, bias)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), whole, chunked)
