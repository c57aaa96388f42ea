"""Contrastive losses against a plain NumPy computation, in one table and in chunks; pooling."""
# SPDX-License-Identifier: Apache-2.0

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.errors import ConfigError
from t5x_lite.objectives import similarity
from t5x_lite.objectives.similarity import (
    ContrastiveLoss,
    View,
    in_batch_loss,
    normalise_rows,
    pool_cls,
    pool_first_last,
    pool_last_two,
    pool_mean,
)

RNG = np.random.default_rng(0)
B, D = 6, 8
ALL = np.ones(B, bool)
SETTINGS = {
    'simcse': dict(scale=20.0),
    'clip': dict(scale=14.3, directions='mean'),
    't5x_retrieval': dict(scale=100.0, directions='sum', margin=0.3),
    'supervised': dict(scale=20.0, hard_weight=1.5, negatives=True),
    'all': dict(scale=9.0, directions='sum', margin=0.2, hard_weight=-0.5, negatives=True),
}


def units(rng, rows=B):
    x = rng.normal(size=(rows, D))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def expected(views, scale, directions='rows', margin=0.0, hard_weight=0.0):
    """Loss and accuracy by loops over pairs in float64; views are (vectors, real, ids)."""
    (q, q_real, q_ids), (k, k_real, k_ids), *negatives = views
    real = q_real & k_real
    losses, right = [], []
    for i in np.flatnonzero(real):
        own, row, column, rivals = scale * q[i] @ k[i] - margin, [], [], []
        for j in np.flatnonzero(real):
            if j != i and (q_ids[i] == q_ids[j] or k_ids[i] == k_ids[j]):
                continue
            row.append(own if i == j else scale * q[i] @ k[j])
            column.append(own if i == j else scale * q[j] @ k[i])
            rivals += [q[i] @ k[j]] if i != j else []
        for n, n_real, n_ids in negatives:
            for j in np.flatnonzero(real & n_real):
                if n_ids[j] != k_ids[i]:
                    row.append(scale * q[i] @ n[j] + hard_weight * (i == j))
                    rivals.append(q[i] @ n[j])
        loss = math.log(sum(map(math.exp, row))) - own
        if directions != 'rows':
            loss += math.log(sum(map(math.exp, column))) - own
        losses.append(loss / 2 if directions == 'mean' else loss)
        right.append(q[i] @ k[i] > max(rivals, default=-2))
    return np.mean(losses), np.mean(right)


def assert_near(a, b, scale: float):
    """Equal to one rounding of a score of size `scale`, times the largest value.

    Probabilities are exponentials of scores: an error of float32's eps * scale in a score is one of
    that share in a probability, and so in a gradient.
    """
    atol = np.finfo(np.float32).eps * scale * max(1.0, np.abs(b).max())
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=atol)


def make_views(rng, negatives, rows=B, real=None, ids=None):
    views = []
    for _ in range(2 + negatives):
        own = np.ones(rows, bool) if real is None else real(rng)
        views.append((units(rng, rows), own, np.arange(rows) if ids is None else ids(rng)))
    views[1] = (normalise(views[1][0] + views[0][0]), *views[1][1:])  # own keys are near
    return views


def normalise(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def compute(views, **settings):
    """`in_batch_loss`, compiled."""
    return jax.jit(lambda views: in_batch_loss(*views, **settings))(as_views(views))


def as_views(views):
    return [View(jnp.float32(x), jnp.asarray(real), jnp.int32(ids)) for x, real, ids in views]


@pytest.mark.parametrize('name', SETTINGS)
def test_the_loss_is_its_equation(name):
    settings = dict(SETTINGS[name])
    views = make_views(np.random.default_rng(1), settings.pop('negatives', False))
    out = compute(views, **settings)
    loss, accuracy = expected(views, **settings)
    assert float(out['loss'].value) == pytest.approx(loss, rel=2e-5, abs=2e-6)
    assert float(out['accuracy'].value) == pytest.approx(accuracy)
    apart = np.square(views[0][0] - views[1][0]).sum(1).mean()
    assert float(out['alignment'].value) == pytest.approx(apart, rel=1e-5)


def test_a_row_alone_with_a_hard_negative_has_the_loss_of_one_positive_and_one_negative():
    x, p, n = np.random.default_rng(2).normal(size=(3, 1, D))
    loss = ContrastiveLoss(views=('a_hidden', 'b_hidden', 'c_hidden'))
    outputs = {
        f'{name}_hidden': jnp.float32(v)[:, None] for name, v in zip('abc', (x, p, n), strict=True)
    }
    batch = {f'{name}_segment_ids': jnp.ones((1, 1), int) for name in 'abc'}
    found = loss(None, None, outputs, batch)['loss'].value
    cosine = lambda a, b: (a @ b.T).item() / np.linalg.norm(a) / np.linalg.norm(b)
    near, far = math.exp(cosine(x, p) / 0.05), math.exp(cosine(x, n) / 0.05)
    assert float(found) == pytest.approx(-math.log(near / (near + far)), rel=1e-5)


@pytest.mark.parametrize('name', SETTINGS)
def test_padding_rows_and_known_duplicates_stay_out_of_the_denominator(name):
    settings = dict(SETTINGS[name])
    rng = np.random.default_rng(3)
    real = lambda rng: rng.random(B) < 0.8
    ids = lambda rng: rng.integers(0, 4, B)
    views = make_views(rng, settings.pop('negatives', False), real=real, ids=ids)
    out = compute(views, **settings)
    loss, accuracy = expected(views, **settings)
    assert float(out['loss'].value) == pytest.approx(loss, rel=2e-5, abs=2e-6)
    assert float(out['accuracy'].value) == pytest.approx(accuracy)
    assert float(out['loss'].count) == (views[0][1] & views[1][1]).sum()


@pytest.mark.parametrize('directions', similarity.DIRECTIONS)
def test_padding_rows_change_no_gradient(directions):
    rng = np.random.default_rng(4)
    short = make_views(rng, True, rows=4)
    fill = lambda x: np.concatenate([x, np.zeros((3, *x.shape[1:]), x.dtype)])
    long = [(fill(x), fill(real), fill(ids)) for x, real, ids in short]

    def gradient(views):
        def loss(vectors):
            given = [v._replace(vectors_BxD=x) for v, x in zip(views, vectors, strict=True)]
            return in_batch_loss(*given, scale=20.0, directions=directions)['loss'].total

        return jax.jit(jax.grad(loss))([v.vectors_BxD for v in views])

    for a, b in zip(gradient(as_views(short)), gradient(as_views(long)), strict=True):
        assert_near(a, b[:4], scale=20.0)
        np.testing.assert_array_equal(b[4:], 0.0)


@pytest.mark.parametrize('directions', similarity.DIRECTIONS)
def test_a_batch_of_one_has_loss_0_and_no_gradient(directions):
    one = jnp.ones(1, bool)

    def loss(x):
        views = View(normalise_rows(x), one), View(normalise_rows(x + 1), one)
        return in_batch_loss(*views, scale=20.0, directions=directions)['loss'].total

    x = jnp.asarray(RNG.normal(size=(1, D)), jnp.float32)
    value, gradient = jax.jit(jax.value_and_grad(loss))(x)
    assert value == pytest.approx(0.0, abs=1e-6)  # one rounding of a score of 20 is 2e-6
    np.testing.assert_array_equal(gradient, 0.0)


def test_a_batch_of_padding_has_loss_0_and_a_finite_gradient():
    none = jnp.zeros(B, bool)

    def loss(x):
        return in_batch_loss(View(normalise_rows(x), none), View(x, none), scale=20.0)['loss'].total

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.zeros((B, D)))
    assert value == 0.0 and jnp.isfinite(gradient).all()


def test_ties_count_against_the_model():
    same = np.full((3, 4), 0.5), np.ones(3, bool), np.arange(3)
    assert compute([same] * 2, scale=20.0)['accuracy'].value == 0.0
    assert compute([same] * 3, scale=20.0)['accuracy'].value == 0.0


def test_rows_of_equal_text_are_no_negatives_of_each_other():
    same = np.full((3, 4), 0.5), np.ones(3, bool), np.full(3, 7)
    out = compute([same] * 2, scale=20.0)
    assert out['loss'].value == 0.0 and out['accuracy'].value == 1.0


# Chunks.


def value_and_gradient(settings, views):
    views, settings = as_views(views), dict(settings)

    def loss(vectors, scale):
        given = [v._replace(vectors_BxD=x) for v, x in zip(views, vectors, strict=True)]
        means = in_batch_loss(*given, scale=scale, **settings)
        return means['loss'].total / means['loss'].count, means

    grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (_, means), grads = jax.jit(grad)([v.vectors_BxD for v in views], settings.pop('scale'))
    return jax.device_get((means, grads))


@pytest.mark.parametrize('name', SETTINGS)
def test_chunks_change_no_number(name, monkeypatch):
    """45 rows, chunks of 8, padding, duplicates: value and gradients, that of the scale too."""
    settings = dict(SETTINGS[name])
    rng = np.random.default_rng(5)
    real, ids = (lambda rng: rng.random(45) < 0.9), (lambda rng: rng.integers(0, 40, 45))
    views = make_views(rng, settings.pop('negatives', False), rows=45, real=real, ids=ids)
    plain = value_and_gradient(settings, views)
    monkeypatch.setattr(similarity, 'WHOLE', 16)
    monkeypatch.setattr(similarity, 'CHUNK', 8)
    chunks = value_and_gradient(settings, views)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(chunks), strict=True):
        assert_near(a, b, scale=max(1.0, settings['scale']))


@pytest.mark.parametrize('name', ['clip', 'all'])
def test_a_large_batch_takes_no_memory_for_a_square(name):
    """B = 4096, D = 64, forward and backward: a few tables of B x CHUNK, not of B x B (64 MB)."""
    settings, rows = dict(SETTINGS[name]), 4096
    assert rows > similarity.WHOLE
    negatives = settings.pop('negatives', False)
    real, ids = jnp.ones(rows, bool), jnp.arange(rows)

    def loss(vectors):
        views = [View(x, real, ids) for x in vectors]
        return in_batch_loss(*views, **settings)['loss'].total / rows

    shapes = [jax.ShapeDtypeStruct((rows, 64), jnp.float32)] * (2 + negatives)
    compiled = jax.jit(jax.grad(loss)).lower(shapes).compile()
    table, square = 4 * rows * similarity.CHUNK, 4 * rows * rows
    assert compiled.memory_analysis().temp_size_in_bytes < 6 * table < square


# Pooling and settings.


def test_mean_pooling_ignores_padding_and_gives_0_for_a_padding_row():
    hidden = jnp.asarray(RNG.normal(size=(2, 3, 4)), jnp.float32)
    mask = jnp.asarray([[True, True, False], [False] * 3])
    pooled = pool_mean(hidden, mask)
    np.testing.assert_allclose(pooled[0], hidden[0, :2].mean(0), rtol=1e-6)
    np.testing.assert_array_equal(pooled[1], 0.0)
    assert jnp.isfinite(jax.grad(lambda h: normalise_rows(pool_mean(h, mask)).sum())(hidden)).all()


def test_pooling_of_two_layers_is_the_mean_of_both():
    layers = jnp.asarray(RNG.normal(size=(4, 2, 3, 5)), jnp.float32)
    mask = jnp.asarray([[True, True, False], [True] * 3])
    for pool, picked in ((pool_first_last, [0, 3]), (pool_last_two, [2, 3])):
        means = [pool_mean(layers[i], mask) for i in picked]
        np.testing.assert_allclose(pool(layers, mask), (means[0] + means[1]) / 2, rtol=1e-5)
        assert similarity.every_layer(pool)
    assert not similarity.every_layer(pool_cls)
    outputs = {'encoder_hidden': layers[-1], 'encoder_layers': layers}
    found = similarity.pooled(pool_first_last, outputs, 'encoder_hidden', mask)
    np.testing.assert_array_equal(found, pool_first_last(layers, mask))


def test_a_learned_temperature_is_the_heads_and_is_reported():
    outputs = {name: jnp.ones((2, 1, 4)) for name in ('encoder_hidden', 'encoder_hidden_2')}
    batch = {'encoder_segment_ids': jnp.ones((2, 1), int)}
    loss = ContrastiveLoss(temperature=None)

    class Head:
        temperature = jnp.log(jnp.asarray([14.0]))[0]

        def __call__(self, x, view):
            return x

    means = loss(None, Head(), outputs, batch)
    assert float(means['scale'].value) == pytest.approx(14.0, rel=1e-6)
    for head in (None, SimpleNamespace()):
        with pytest.raises(ConfigError, match=r'SimilarityHead\(temperature=0.07\)'):
            loss.compare(None, head, dict.fromkeys(loss.views, jnp.ones((2, 4))), batch)


@pytest.mark.parametrize(
    'settings, words',
    [
        (dict(temperature=0), ['temperature=0', 'above 0']),
        (dict(directions='both'), ["directions='both'", 'mean']),
        (dict(views=('encoder_hidden',)), ['views=', 'two outputs']),
        (dict(hard_weight=1.0), ['hard_weight=1.0', 'has none']),
    ],
)
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(ConfigError) as error:
        ContrastiveLoss(**settings)
    assert all(word in str(error.value) for word in words), error.value
