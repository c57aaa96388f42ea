"""Held-out numbers: exact counts, bits per byte, the unigram model, retrieval; on literals."""
# SPDX-License-Identifier: Apache-2.0

import math

import fixtures
import numpy as np
import pytest

from t5x_lite import metrics, scoring
from t5x_lite.metrics import Mean
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.objectives.contrastive import mlm_simcse
from t5x_lite.retrieval import retrieval

BYTES = np.array([0, 0, 3, 2, 1])


def batch(targets, weights):
    return {
        'decoder_target_tokens': np.array(targets),
        'decoder_loss_weights': np.array(weights, np.float32),
    }


def test_only_targets_with_a_weight_are_counted():
    found = scoring.scored(
        causal_lm(), batch([[2, 3, 1, 0], [4, 4, 2, 0]], [[1, 1, 1, 0]] * 2), BYTES
    )
    assert found['causal_lm'].tokens == 6
    assert found['causal_lm'].bytes == 3 + 2 + 0 + 1 + 1 + 3
    assert found['causal_lm'].histogram_V.tolist() == [0, 1, 2, 1, 2]


def test_counts_of_batches_add_and_padding_batches_add_nothing():
    one = scoring.scored(causal_lm(), batch([[2, 3]], [[1, 1]]), BYTES)
    none = scoring.scored(causal_lm(), batch([[0, 0]], [[0, 0]]), BYTES)
    total = scoring.add(scoring.add({}, one), none)
    assert total['causal_lm'].tokens == 2 and total['causal_lm'].bytes == 5


def test_bits_per_byte_and_perplexity_follow_their_definitions():
    counts = scoring.scored(causal_lm(), batch([[2, 3, 1]], [[1, 1, 1]]), BYTES)
    nll = Mean(np.float64(6.0), np.float64(3.0))
    values = dict(
        scoring.summarise({'clm/loss': nll, 'clm/nll': nll}, counts, {}, {'causal_lm': 'clm'})
    )
    assert values == {
        'clm/loss': 2.0,
        'clm/perplexity': pytest.approx(math.exp(2.0)),
        'clm/bits_per_byte': pytest.approx(6.0 / math.log(2) / 5),
    }


def test_the_unigram_model_adds_one_to_each_count():
    train = scoring.scored(causal_lm(), batch([[2, 2, 3]], [[1, 1, 1]]), BYTES)['causal_lm']
    log_p = scoring.unigram(train)
    assert np.exp(log_p) == pytest.approx([1 / 8, 1 / 8, 3 / 8, 2 / 8, 1 / 8])
    held_out = scoring.scored(causal_lm(), batch([[2, 4]], [[1, 1]]), BYTES)
    nll = Mean(np.float64(1.0), np.float64(2.0))
    values = dict(
        scoring.summarise({'clm/nll': nll}, held_out, {'causal_lm': log_p}, {'causal_lm': 'clm'})
    )
    assert values['clm/unigram_loss'] == pytest.approx((math.log(8 / 3) + math.log(8)) / 2)
    expected = (math.log(8 / 3) + math.log(8)) / math.log(2) / 4
    assert values['clm/unigram_bits_per_byte'] == pytest.approx(expected)


def test_terms_without_targets_are_not_counted():
    rows = fixtures.batches(fixtures.experiment('mlm_simcse', model=dict(dropout=0.1)), 1)[0]
    found = scoring.scored(mlm_simcse(), rows['mlm_simcse'], fixtures.vocabulary().bytes_per_token)
    assert list(found) == ['mlm']


def test_means_add_exactly_and_a_mean_over_nothing_is_0():
    total = metrics.add({'a': Mean(1.0, 2.0)}, {'a': Mean(5.0, 1.0), 'b': Mean(1.0, 1.0)})
    assert total == {'a': Mean(6.0, 3.0), 'b': Mean(1.0, 1.0)}
    assert total['a'].value == 2.0 and Mean(0.0, 0.0).value == 0.0


def test_retrieval_counts_a_tie_as_a_miss():
    e = np.eye(3)
    assert retrieval(e, e)['recall_at_1'] == 1.0
    assert retrieval(e, e[[1, 0, 2]])['recall_at_1'] == pytest.approx(1 / 3)
    assert retrieval(e[[0, 0, 2]], e[[0, 0, 2]])['recall_at_1'] == pytest.approx(1 / 3)


def test_rank_recall_and_reciprocal_rank():
    query = np.eye(3)[[0, 0, 0]]
    match = np.array([[0.8, 0.6, 0.0], [0.6, 0.8, 0.0], [1.0, 0.0, 0.0]])  # ranks 2, 3, 1
    found = retrieval(query, match)
    assert (found['recall_at_1'], found['recall_at_10']) == (pytest.approx(1 / 3), 1.0)
    assert found['mrr'] == pytest.approx((1 / 2 + 1 / 3 + 1) / 3)


def test_alignment_and_uniformity_are_wang_and_isolas():
    x, y = np.eye(2), -np.eye(2)
    found = retrieval(x, y)
    assert found['alignment'] == pytest.approx(4.0)  # each pair is opposite
    # Of 12 ordered pairs of the 4 vectors, 8 are orthogonal (distance^2 2), 4 opposite (4).
    expected = math.log((8 * math.exp(-4) + 4 * math.exp(-8)) / 12)
    assert found['uniformity'] == pytest.approx(expected)
