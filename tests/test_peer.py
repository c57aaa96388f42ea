"""Benchmarks beside transformers: equal sizes, the faster one counts, nothing where it is loud."""
# SPDX-License-Identifier: Apache-2.0

import importlib.util

import jax
import numpy as np
import pytest

from benchmarks import alone, peer, record, step
from benchmarks.random_tokens import make_experiment, random_batch
from t5x_lite.errors import ConfigError
from t5x_lite.step import abstract_params

TINY = ['--batch', '8', '--length', '32']
TINY += [f'--set=model.{field}' for field in ('embed=32', 'heads=2', 'mlp=64', 'dropout=0.0')]
TINY += ['--set=model.vocab=256']
LAYERS = {
    'gpt2_small': ['--set=model.decoder_layers=2'],
    'bert_mini': ['--set=model.encoder_layers=2'],
    't5_1_1_small': [f'--set=model.{x}' for x in ('encoder_layers=2', 'decoder_layers=2')],
}
needs_torch = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ('torch', 'transformers')),
    reason='torch or transformers is not installed',
)


def tiny(preset: str, *more: str):
    return make_experiment(step.parse(['--preset', preset, *TINY, *LAYERS[preset], *more]))


def peer_of(experiment, kind='eager'):
    import torch

    torch.set_num_threads(1)  # several wait for each other where other tests run
    (stream,) = experiment.streams.values()
    batch = random_batch(stream, experiment.model.vocab)
    return peer.TransformersStep(experiment, batch, peer.COMPILERS[kind])


@needs_torch
@pytest.mark.parametrize('preset', LAYERS)
def test_the_peer_has_as_many_parameters_and_learns(preset):
    experiment = tiny(preset)
    other = peer_of(experiment)
    ours = sum(x.size for x in jax.tree.leaves(abstract_params(experiment)))
    assert other.parameters == ours
    before = float(other.loss().detach())
    assert before == pytest.approx(np.log(256), rel=0.5)
    for _ in range(3):
        other.dispatch()
    assert float(other.loss().detach()) < before


@needs_torch
def test_a_peer_of_another_size_is_refused():
    experiment = tiny('gpt2_small', '--set=model.bias=False')
    with pytest.raises(ConfigError, match='its model has .* parameters, ours'):
        peer_of(experiment)


@needs_torch
def test_another_optimizer_is_refused():
    for more in (['--optimizer', 'adafactor'], ['--set=optimizer.clip=1.0']):
        with pytest.raises(ConfigError, match='AdamW without a clip'):
            peer.check(tiny('gpt2_small', *more))


@needs_torch
@pytest.mark.all  # torch.compile takes half a minute
def test_the_compiled_peer_has_the_eager_loss():
    experiment = tiny('bert_mini')
    eager, compiled = peer_of(experiment), peer_of(experiment, 'compiled')
    assert float(compiled.loss().detach()) == pytest.approx(float(eager.loss().detach()), rel=1e-5)


def peers(eager: float, compiled: float) -> dict:
    return {
        'eager': {'step_ms': eager, 'alone': {'memory_bytes': 500}},
        'compiled': {'step_ms': compiled, 'alone': {'memory_bytes': 700}},
    }


@pytest.mark.parametrize(
    'times, name, ratio', [((300, 200), 'compiled', 2.0), ((150, 400), 'eager', 1.5)]
)
def test_the_faster_peer_is_the_one_compared(times, name, ratio):
    found = step.compared({'step_ms': 100}, peers(*times), quiet=True)
    assert (found['faster_peer'], found['ratio']) == (name, ratio)
    assert found['leaner_peer_bytes'] == 500


def test_a_loud_machine_gives_no_quotient():
    found = step.compared({'step_ms': 100}, peers(300, 200), quiet=False)
    assert found['ratio'] is None and found['faster_peer'] is None
    assert record.quiet(0.3) and not record.quiet(0.31)


def test_a_side_alone_tells_its_memory_and_time():
    options = step.parse(['--preset', 'gpt2_small', *TINY, *LAYERS['gpt2_small']])
    found = alone.run('t5x_lite', options)
    assert 5e7 < found['memory_bytes'] < 4e9 and found['harness_bytes'] == 0
    assert 0 < found['cpu_seconds'] and len(found['round_ms']) == 2
    assert '--set=model.embed=32' in found['command']


def test_the_peak_of_memory_counts_what_was_freed():
    before = record.peak_rss()
    block = np.ones((before // 8,))  # as much again
    assert record.rss() > before
    del block
    assert record.peak_rss() > 1.3 * before
