"""FLOPs of a train step: by hand for every kind of objective, and by XLA."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from pathlib import Path

import jax
import pytest

from t5x_lite import config, flops
from t5x_lite import step as train
from t5x_lite.experiment import Experiment, Stream
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.heads import MaskedLMHead
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.objectives.contrastive import mlm_simcse, simcse
from t5x_lite.objectives.distillation import Teacher, distilled
from t5x_lite.objectives.mlm import mlm
from t5x_lite.objectives.pairs import dual_encoder, supervised_simcse
from t5x_lite.objectives.replaced_tokens import electra
from t5x_lite.objectives.sentence_pairs import bert
from t5x_lite.objectives.span_corruption import span_corruption
from t5x_lite.optim import AdamW

PROJECT = Path(__file__).resolve().parent.parent


def experiment(objective, lengths, batch=8, **sizes) -> Experiment:
    model = ModelConfig(**dict(vocab=100, embed=8, heads=2, mlp=16) | sizes)
    stream = Stream(mixture='none', objective=objective, lengths=lengths, batch_size=batch)
    return Experiment(
        model=model, streams={'s': stream}, optimizer=AdamW(learning_rate=0.1), steps=1
    )


def forward(*arguments, **sizes) -> int:
    run = experiment(*arguments, **sizes)
    assert flops.train_step_flops(run) == 3 * flops.forward_flops(run)
    return flops.forward_flops(run)


# Batch 3, 8 wide, 2 heads of 4, feed-forward 16, vocabulary 100; 5 tokens, so 15 in a batch.
PROJECTIONS = 2 * 15 * 8 * 8 * 4  # query, key, value, output
SQUARE = 2 * 3 * 5 * 5 * 8 * 2  # scores and their mix, all heads
FEED_FORWARD = 2 * 15 * 8 * 16 * 2
LAYER = PROJECTIONS + SQUARE + FEED_FORWARD
LOGITS = 2 * 15 * 8 * 100
MASKED = 2 * 3 * 8 * (8 + 100)  # of one token in each row: a dense layer and the logits


def test_a_decoder_counts_layers_and_logits():
    found = forward(causal_lm(), {'targets': 5}, 3, decoder_layers=2)
    assert found == 2 * LAYER + LOGITS == 2 * 17_760 + 24_000


def test_grouped_queries_and_a_gate_change_the_matrices():
    found = forward(causal_lm(), {'targets': 5}, 3, decoder_layers=1, kv_heads=1, gated=True)
    keys_values_saved = 2 * 15 * 8 * 4 * 2
    assert found == LAYER - keys_values_saved + FEED_FORWARD // 2 + LOGITS


def test_a_masked_lm_adds_its_dense_layer_and_logits_where_tokens_are_predicted():
    found = forward(mlm(), {'targets': 5}, 3, encoder_layers=1)
    assert found == LAYER + MASKED


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
    assert found == 2 * LAYER + pairs + MASKED


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
    assert 0.99 < flops.forward_flops(run) / count(loss) < 1.0
    assert 0.99 < flops.train_step_flops(run) / count(jax.grad(loss)) < 1.0


def test_a_classifier_of_rows_is_counted_for_its_one_place():
    sizes = dict(encoder_layers=1, types=2)
    found = forward(bert(), {'targets': 5}, 3, **sizes)
    assert found == LAYER + MASKED + 2 * 3 * 8 * (8 + 2)


def test_electra_counts_its_generator_at_the_predicted_places_and_no_gradient_of_samples():
    run = experiment(electra(width=0.5), {'targets': 20}, 3, encoder_layers=1)
    narrow = 2 * 60 * 8 * 4 + 2 * 60 * 4 * 4 * 4 + 2 * 3 * 20 * 20 * 4 * 2 + 2 * 60 * 4 * 8 * 2
    scored = 2 * 9 * (4 * 8 + 8 * 100)  # 3 of 20 places are predicted
    layer = 2 * 60 * 8 * 8 * 4 + 2 * 3 * 20 * 20 * 8 * 2 + FEED_FORWARD * 4
    detected = 2 * 60 * 8 * (8 + 1)
    assert flops.forward_flops(run) == narrow + scored + layer + detected
    assert flops.train_step_flops(run) == 3 * flops.forward_flops(run)


def test_a_teacher_has_a_forward_and_no_backward():
    teacher = ModelConfig(vocab=100, embed=8, heads=2, mlp=16, encoder_layers=3)
    teacher = Teacher(model=teacher, heads={'mlm': MaskedLMHead()}, init=None)
    taught = distilled(objective=mlm(), teacher=teacher)
    run = experiment(taught, {'targets': 5}, 3, encoder_layers=1)
    head = LOGITS + 2 * 15 * 8 * 8
    student = LAYER + head + MASKED  # the student's logits are made for both losses
    assert flops.forward_flops(run) == student + 3 * LAYER + head
    assert flops.train_step_flops(run) == 3 * student + 3 * LAYER + head


def test_microbatches_of_rows_that_meet_cost_one_more_encoding():
    whole = experiment(simcse(), {'targets': 5}, 8, encoder_layers=1, dropout=0.1)
    parts = dataclasses.replace(whole, microbatches=2)
    pairs = 2 * 8 * 8 * 8
    again = flops.forward_flops(whole) - pairs
    assert flops.train_step_flops(parts) == flops.train_step_flops(whole) + again
    lm = experiment(causal_lm(), {'targets': 5}, 8, decoder_layers=1)
    assert flops.train_step_flops(dataclasses.replace(lm, microbatches=2)) == (
        flops.train_step_flops(lm)
    )


def test_recomputation_and_unrolling_do_not_count():
    run = experiment(causal_lm(), {'targets': 5}, 3, decoder_layers=4)
    for changes in (dict(remat='full'), dict(unroll=4)):
        other = dataclasses.replace(run, model=dataclasses.replace(run.model, **changes))
        assert flops.train_step_flops(other) == flops.train_step_flops(run)


@pytest.mark.parametrize('file', sorted((PROJECT / 'configs/runs').glob('*_mini.gin')), ids=str)
def test_every_shipped_small_run_is_counted(file):
    run = config.load(file).experiment
    assert flops.forward_flops(run) > 0
    assert flops.train_step_flops(run) >= 3 * flops.forward_flops(run)
