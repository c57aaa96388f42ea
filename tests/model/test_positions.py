"""Positions: T5's buckets, rotary angles and their scaling."""
# SPDX-License-Identifier: Apache-2.0

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.errors import ConfigError
from t5x_lite.model import positions


def close(a, b, tolerance=2e-6):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def test_relative_buckets_are_t5s():
    # From Raffel et al. 2020: 32 buckets, distance 128; half of them exact, the rest logarithmic.
    relative = positions.Relative()
    distance = jnp.asarray([0, -1, -7, -8, -15, -16, -127, -128, -1000, 1, 8, 200])
    assert relative.bucket(distance, True).tolist() == [
        0, 1, 7, 8, 9, 10, 15, 15, 15, 17, 24, 31,
    ]  # fmt: skip
    assert relative.bucket(distance, False).tolist() == [
        0, 1, 7, 8, 15, 16, 31, 31, 31, 0, 0, 0,
    ]  # fmt: skip


def test_rope_depends_on_distances_only():
    rope, key = positions.Rope(), jax.random.key(0)
    q, k = (jax.random.normal(x, (1, 2, 4, 8)) for x in jax.random.split(key))
    place = jnp.arange(4)[None]
    scores = [
        jnp.einsum('BHLK,BHMK->BHLM', rope.rotate(q, place + s), rope.rotate(k, place + s))
        for s in (0, 50)
    ]
    close(*scores, 1e-4)


def test_llama3_scaling_slows_what_turns_seldom():
    scaling = positions.Llama3Scaling(factor=8.0, low=1.0, high=4.0, length=100)
    turns = jnp.array([40.0, 4.0, 2.5, 1.0, 0.1])  # in 100 tokens
    kept = scaling(turns * 2 * jnp.pi / 100) * 100 / (2 * jnp.pi)
    close(kept, jnp.array([40.0, 4.0, 2.5 * (0.5 / 8 + 0.5), 1 / 8, 0.1 / 8]), 1e-5)
    with pytest.raises(ConfigError, match='high=1.0'):
        positions.Llama3Scaling(high=1.0)


def test_the_scaling_of_rope_reaches_queries_and_keys():
    place, x = jnp.full((1, 1), 10), jax.random.normal(jax.random.key(0), (1, 1, 1, 8))
    slow = positions.Rope(scaling=lambda frequencies_K: frequencies_K / 5)
    close(slow.rotate(x, place), positions.Rope().rotate(x, place // 5), 1e-6)
