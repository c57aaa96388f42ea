"""Losses against their equations in float64, and their edge cases."""
# SPDX-License-Identifier: Apache-2.0

import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.errors import ConfigError
from t5x_lite.metrics import Mean
from t5x_lite.objectives.losses import (
    TokenLoss,
    cross_entropy,
    token_counts,
)

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, 3, 7)) * 3
TARGETS = RNG.integers(0, 7, (2, 3))


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def smoothed(low, high):
    """Cross-entropy in float64 with targets that are `high` at the gold class, `low` elsewhere."""
    soft = np.full(LOGITS.shape, low)
    np.put_along_axis(soft, TARGETS[..., None], high, axis=-1)
    return -(soft * log_softmax(LOGITS)).sum(-1), -(soft * np.log(np.maximum(soft, 1e-300))).sum(-1)


def test_cross_entropy_is_the_negative_log_likelihood():
    loss, nll, right = cross_entropy(jnp.asarray(LOGITS), TARGETS)
    expected = -np.take_along_axis(log_softmax(LOGITS), TARGETS[..., None], -1)[..., 0]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(nll, expected, rtol=1e-6)
    np.testing.assert_array_equal(right, LOGITS.argmax(-1) == TARGETS)


def test_z_loss_adds_the_squared_log_partition():
    plain, _, _ = cross_entropy(jnp.asarray(LOGITS), TARGETS)
    with_z, nll, _ = cross_entropy(jnp.asarray(LOGITS), TARGETS, z_loss=1e-2)
    log_z = np.log(np.exp(LOGITS).sum(-1))
    np.testing.assert_allclose(with_z - plain, 1e-2 * log_z**2, rtol=1e-4)
    np.testing.assert_allclose(nll, plain)


def test_label_smoothing_has_both_conventions():
    # T5X: off-value e / (V - 1), minus the entropy; PyTorch: e / V on all classes.
    cross, entropy = smoothed(0.1 / 6, 0.9)
    loss, _, _ = cross_entropy(jnp.asarray(LOGITS), TARGETS, label_smoothing=0.1)
    np.testing.assert_allclose(loss, cross - entropy, rtol=1e-5)
    cross, _ = smoothed(0.1 / 7, 0.9 + 0.1 / 7)
    loss, _, _ = cross_entropy(
        jnp.asarray(LOGITS), TARGETS, label_smoothing=0.1, smoothing='uniform'
    )
    np.testing.assert_allclose(loss, cross, rtol=1e-5)


def test_normalisations():
    loss = jnp.asarray([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    weights = jnp.asarray([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])

    def value(weights, *how):
        counts, divisor = token_counts(weights, *how)
        return Mean((loss * counts).sum(), divisor).value

    assert value(weights, 'tokens') == pytest.approx(7 / 3)
    assert value(weights, 'examples') == pytest.approx((1.5 + 4) / 2)
    segments = jnp.array([[1, 2, 0], [1, 1, 2]])
    assert value(weights, 'examples', 1.0, segments) == pytest.approx((1 + 2 + 4) / 3)
    assert token_counts(weights, 'examples', 1.0, segments)[1] == 3
    assert value(weights, 'constant', 10.0) == pytest.approx(0.7)
    assert value(weights, 'none') == pytest.approx(7.0)
    assert value(0 * weights, 'tokens') == 0.0
    assert value(0 * weights, 'examples') == 0.0


@pytest.mark.parametrize(
    'make, words',
    [
        (lambda: TokenLoss(side='decode'), ['side', 'decoder']),
        (lambda: TokenLoss(normalise='token'), ['normalise', 'tokens']),
        (lambda: TokenLoss(limit=0), ['limit=0', '1 or more']),
        (lambda: TokenLoss(label_smoothing=1.0), ['label_smoothing=1.0', '[0, 1)']),
    ],
)
def test_bad_settings_are_refused(make, words):
    with pytest.raises(ConfigError) as error:
        make()
    assert all(word in str(error.value) for word in words)
