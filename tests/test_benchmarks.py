"""Benchmarks: FLOPs by hand and by XLA, a whole run of the step benchmark, and its refusals."""
# SPDX-License-Identifier: Apache-2.0

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import data, flops, step
from t5x_lite import step as train
from t5x_lite.experiment import Experiment, Stream
from t5x_lite.model.config import ModelConfig
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.objectives.contrastive import mlm_simcse, simcse
from t5x_lite.objectives.mlm import mlm
from t5x_lite.objectives.pairs import dual_encoder, supervised_simcse
from t5x_lite.objectives.span_corruption import span_corruption
from t5x_lite.optim import AdamW

TINY = ['--batch', '8', '--length', '32', '--rounds', '2', '--steps', '1', '--matmul', '64']
TINY += ['--set', 'model.embed=32', '--set', 'model.heads=2', '--set', 'model.mlp=64']
TINY += ['--set', 'model.vocab=256', '--set', 'model.decoder_layers=2']


def experiment(objective, lengths, batch=8, **sizes) -> Experiment:
    model = ModelConfig(**dict(vocab=100, embed=8, heads=2, mlp=16) | sizes)
    stream = Stream(mixture='none', objective=objective, lengths=lengths, batch_size=batch)
    return Experiment(
        model=model, streams={'s': stream}, optimizer=AdamW(learning_rate=0.1), steps=1
    )


def forward(*arguments, **sizes) -> int:
    run = experiment(*arguments, **sizes)
    assert flops.train_step_flops(run) == 3 * flops.forward_flops(run.model, run.streams['s'])
    return flops.forward_flops(run.model, run.streams['s'])


# Batch 3, 8 wide, 2 heads of 4, feed-forward 16, vocabulary 100; 5 tokens, so 15 in a batch.
PROJECTIONS = 2 * 15 * 8 * 8 * 4  # query, key, value, output
SQUARE = 2 * 3 * 5 * 5 * 8 * 2  # scores and their mix, all heads
FEED_FORWARD = 2 * 15 * 8 * 16 * 2
LAYER = PROJECTIONS + SQUARE + FEED_FORWARD
LOGITS = 2 * 15 * 8 * 100


def test_a_decoder_counts_layers_and_logits():
    found = forward(causal_lm(), {'targets': 5}, 3, decoder_layers=2)
    assert found == 2 * LAYER + LOGITS == 2 * 17_760 + 24_000


def test_grouped_queries_and_a_gate_change_the_matrices():
    found = forward(causal_lm(), {'targets': 5}, 3, decoder_layers=1, kv_heads=1, gated=True)
    keys_values_saved = 2 * 15 * 8 * 4 * 2
    assert found == LAYER - keys_values_saved + FEED_FORWARD // 2 + LOGITS


def test_a_masked_lm_adds_its_dense_layer():
    found = forward(mlm(), {'targets': 5}, 3, encoder_layers=1)
    assert found == LAYER + LOGITS + 2 * 15 * 8 * 8


def test_an_encoder_decoder_adds_cross_attention():
    lengths = {'inputs': 5, 'targets': 4}
    found = forward(span_corruption(), lengths, 3, encoder_layers=1, decoder_layers=1)
    decoder = 2 * 12 * 8 * 8 * 4 + 2 * 3 * 4 * 4 * 8 * 2 + 2 * 12 * 8 * 16 * 2
    cross = 2 * (12 + 15) * 8 * 8 * 2 + 2 * 3 * 4 * 5 * 8 * 2
    assert found == LAYER + decoder + cross + 2 * 12 * 8 * 100


def test_simcse_runs_two_views_and_scores_pairs_without_logits():
    sizes = dict(encoder_layers=1, dropout=0.1)
    pairs = 2 * 3 * 3 * 8 + 2 * 2 * 3 * 8 * 8
    assert forward(simcse(), {'targets': 5}, 3, **sizes) == 2 * LAYER + pairs
    found = forward(mlm_simcse(), {'targets': 5}, 3, **sizes)
    assert found == 2 * LAYER + pairs + LOGITS + 2 * 15 * 8 * 8


def test_pairs_run_each_side_and_score_keys_and_hard_negatives():
    lengths = {'anchor': 5, 'positive': 5, 'negative': 5}
    scores = 2 * 2 * 3 * 3 * 8 + 3 * 2 * 3 * 8 * 8
    assert forward(supervised_simcse(), lengths, 3, encoder_layers=1) == 3 * LAYER + scores
    found = forward(dual_encoder(projection=4), {'inputs': 5, 'targets': 5}, 3, encoder_layers=1)
    assert found == 2 * LAYER + 2 * 3 * 3 * 4 + 2 * 2 * 3 * 8 * 4


@pytest.mark.parametrize(
    'objective, lengths, sizes',
    [
        (causal_lm(), {'targets': 128}, dict(decoder_layers=1, gated=True, kv_heads=2)),
        (mlm(), {'targets': 128}, dict(encoder_layers=1)),
        (
            span_corruption(),
            {'inputs': 128, 'targets': 64},
            dict(encoder_layers=1, decoder_layers=1),
        ),
        (simcse(), {'targets': 128}, dict(encoder_layers=1, dropout=0.1)),
    ],
)
def test_flops_agree_with_xla(objective, lengths, sizes):
    run = experiment(objective, lengths, 8, vocab=2048, embed=512, heads=4, mlp=2048, **sizes)
    params = jax.eval_shape(lambda: train.init_state(run)).params
    (stream,) = run.streams.values()
    batch = {k: jax.ShapeDtypeStruct(*v) for k, v in stream.spec().items()}
    means = lambda params, batch: train.batch_means(run, train.model_of(run)(params), {'s': batch})
    loss = lambda params, batch: means(params, batch)['s/loss'].total
    count = lambda function: jax.jit(function).lower(params, batch).cost_analysis()['flops']
    # XLA counts norms, softmax and activations too.
    assert 0.99 < flops.forward_flops(run.model, stream) / count(loss) < 1.0
    assert 0.99 < flops.train_step_flops(run) / count(jax.grad(loss)) < 1.0


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


@pytest.mark.parametrize('preset', step.PRESETS)
def test_every_preset_has_its_objective_and_batch(preset):
    run = step.make_experiment(step.parse(['--preset', preset]))
    ((name, stream),) = run.streams.items()
    batch = step.random_batch(stream, run.model.vocab)
    assert name == {'bert': 'mlm', 'gpt2': 'causal_lm', 't5': 'span_corruption'}.get(
        preset.partition('_')[0], step.FAMILY[run.model.stacks]
    )
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == stream.spec()


def test_simcse_brings_the_dropout_that_it_needs():
    parse = lambda *more: step.parse(['--preset', 'encoder_mini', '--objective', 'simcse', *more])
    assert step.make_experiment(parse()).model.dropout == 0.1
    assert step.make_experiment(parse('--set', 'model.dropout=0.2')).model.dropout == 0.2


def test_the_batch_is_full_and_scored_as_the_objective_asks():
    (stream,) = experiment(mlm(), {'targets': 64}, 64, encoder_layers=1).streams.values()
    batch = step.random_batch(stream, 100)
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
