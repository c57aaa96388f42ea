"""Benchmarks: a whole run of the step benchmark, and its refusals."""
# SPDX-License-Identifier: Apache-2.0

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import data, random_tokens, step
from t5x_lite.experiment import Stream
from t5x_lite.objectives.mlm import mlm

TINY = ['--batch', '8', '--length', '32', '--rounds', '2', '--steps', '1', '--matmul', '64']
TINY += ['--set', 'model.embed=32', '--set', 'model.heads=2', '--set', 'model.mlp=64']
TINY += ['--set', 'model.vocab=256', '--set', 'model.decoder_layers=2']


def test_the_step_benchmark_runs(tmp_path, capsys):
    file = tmp_path / 'record.json'
    step.main(['--preset', 'gpt2_small', *TINY, '--json', str(file)])
    record = json.loads(file.read_text())
    assert capsys.readouterr().out.splitlines()[-1] == file.read_text().strip()
    seconds = record['step_ms'] / 1e3
    assert record['tokens_per_second'] == pytest.approx(record['tokens_per_step'] / seconds)
    assert record['flops_per_second'] == pytest.approx(record['flops_per_step'] / seconds)
    assert record['mfu'] == pytest.approx(
        record['flops_per_second'] / record['peak_flops_per_second']
    )
    assert len(record['round_ms']) == 2 and 0 < min(record['round_ms']) <= record['step_ms']
    assert 0 < record['host_ms'] and 0 < record['compile_seconds'] and 1e8 < record['memory_bytes']
    assert record['versions']['jax'] == jax.__version__


@pytest.mark.parametrize('preset', random_tokens.PRESETS)
def test_every_preset_has_its_objective_and_batch(preset):
    run = random_tokens.make_experiment(step.parse(['--preset', preset]))
    ((name, stream),) = run.streams.items()
    batch = random_tokens.random_batch(stream, run.model.vocab)
    assert name == {'bert': 'mlm', 'gpt2': 'causal_lm', 't5': 'span_corruption'}.get(
        preset.partition('_')[0], random_tokens.FAMILY[run.model.stacks]
    )
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == stream.spec()


def test_simcse_brings_the_dropout_that_it_needs():
    parse = lambda *more: step.parse(['--preset', 'encoder_mini', '--objective', 'simcse', *more])
    assert random_tokens.make_experiment(parse()).model.dropout == 0.1
    assert random_tokens.make_experiment(parse('--set', 'model.dropout=0.2')).model.dropout == 0.2


def test_the_batch_is_full_and_scored_as_the_objective_asks():
    stream = Stream(mixture='none', objective=mlm(), lengths={'targets': 64}, batch_size=64)
    batch = random_tokens.random_batch(stream, 100)
    assert batch['encoder_segment_ids'].min() == 1
    np.testing.assert_array_equal(batch['encoder_positions'][3], np.arange(64))
    assert 0.13 < batch['encoder_loss_weights'].mean() < 0.17
    assert 0 < batch['encoder_input_tokens'].min() and batch['encoder_input_tokens'].max() == 99


def refusal(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stopped:
        step.main(list(arguments))
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec('torch') is not None, reason='torch is installed')
def test_a_missing_peer_is_said_and_exits_2(capsys):
    message = refusal(capsys, '--preset', 'gpt2_small', '--peer', 'transformers', *TINY)
    assert 'torch is not installed; pip install torch transformers' in message


@pytest.mark.parametrize(
    'arguments, part',
    [
        (['--preset', 'bert_huge'], 'invalid choice'),
        (['--preset', 'bert_base', '--rounds', '0'], "'0' must be an integer of 1 or more"),
        (['--preset', 'bert_base', '--length', '600'], 'model.positions knows 512'),
        (['--preset', 'bert_base', '--objective', 'causal_lm'], 'decoder_layers=0'),
        (['--preset', 'bert_base', '--batch', '9'], 'try 8 or 16'),
        (['--preset', 'bert_base', '--set', 'model.embd=8'], 'nearest: embed'),
        (['--preset', 'bert_base', '--json', 'nowhere/x.json'], 'there is no folder nowhere'),
    ],
)
def test_bad_arguments_are_refused(arguments, part, capsys):
    assert part in refusal(capsys, *arguments)


def test_the_data_benchmark_measures_each_objective(capsys, monkeypatch):
    monkeypatch.setattr('sys.argv', ['data', '--tokens', '40000', '--length', '64'])
    data.main()
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines]
    assert names == [name for name, *_ in data.objectives(64)]
    assert {'mlm', 'causal_lm', 'span_corruption', 'simcse', 'ul2', 'nsp'} < set(names)
    assert all(float(line.split()[1]) > 0.01 for line in lines)


def test_the_matmul_peak_counts_every_device():
    matmul = step.Matmul(16, 'float32')
    before = np.asarray(matmul.x)
    matmul.dispatch()
    matmul.wait()
    assert matmul.flops == 2 * 16**3 * jax.device_count()
    expected = before @ np.asarray(matmul.y)
    np.testing.assert_allclose(np.asarray(matmul.x), expected, rtol=1e-4, atol=1e-5)
    assert matmul.x.dtype == jnp.float32
