"""What every model must honour: causality, padding, packing, prefix, the cache, scan and remat."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.errors import ConfigError
from t5x_lite.model import activations, inits, norms, positions
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.transformer import build

SMALL = dict(vocab=50, embed=32, heads=4, mlp=48)
VARIANTS = {
    'rope': dict(positions=positions.Rope()),
    'learned': dict(positions=positions.Learned(16), norm=norms.LayerNorm(), bias=True),
    't5': dict(
        positions=positions.Relative(),
        scale_attention=False,
        init=inits.FanIn(),
        gated=True,
        tied=False,
        activation=activations.gelu_tanh,
    ),
    'post-norm': dict(norm_first=False, norm_embedding=True, norm=norms.LayerNorm(1e-12)),
    'grouped': dict(kv_heads=2, gated=True, activation=activations.silu),
    'none': dict(positions=positions.NoPositions()),
}


def make(variant, encoder=0, decoder=0, **more):
    config = ModelConfig(
        **SMALL, encoder_layers=encoder, decoder_layers=decoder, **VARIANTS[variant], **more
    )
    return build(config, seed=1)


def tokens(rows=2, length=10, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(1, 50, (rows, length)))


def close(a, b, tolerance=2e-6):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


every_variant = pytest.mark.parametrize('variant', VARIANTS)


@every_variant
def test_a_decoder_sees_no_future(variant):
    model, x = make(variant, decoder=2), tokens()
    changed = x.at[:, 6].set((x[:, 6] + 1) % 50)
    before, after = model.decode(x)[0], model.decode(changed)[0]
    close(before[:, :6], after[:, :6], 0)
    assert jnp.abs(before[:, 6:] - after[:, 6:]).max() > 1e-4


@every_variant
def test_an_encoder_sees_both_ways(variant):
    model, x = make(variant, encoder=2), tokens()
    changed = x.at[:, 6].set((x[:, 6] + 1) % 50)
    difference = jnp.abs(model.encode(x) - model.encode(changed)).max(-1)
    assert (difference > 1e-6).all()


@every_variant
def test_padding_is_invisible(variant):
    model, x = make(variant, encoder=2, decoder=2), tokens(length=8)
    padded = jnp.pad(x, ((0, 0), (0, 5)), constant_values=7)
    segments = jnp.pad(jnp.ones_like(x), ((0, 0), (0, 5)))
    memory, padded_memory = model.encode(x), model.encode(padded, segments=segments)
    close(memory, padded_memory[:, :8])
    plain, _ = model.decode(x, memory=memory)
    with_padding, _ = model.decode(
        padded, memory=padded_memory, segments=segments, memory_segments=segments
    )
    close(plain, with_padding[:, :8])
    assert jnp.isfinite(with_padding).all()


@every_variant
def test_packed_neighbours_are_blind_and_equal_to_being_alone(variant):
    model = make(variant, encoder=2, decoder=2)
    a, b = tokens(1, 4, seed=1), tokens(1, 6, seed=2)
    row = jnp.concatenate([a, b], axis=1)
    segments = jnp.asarray([[1] * 4 + [2] * 6])
    place = jnp.asarray([[*range(4), *range(6)]])
    memory = model.encode(row, segments=segments, positions=place)
    hidden, _ = model.decode(
        row, memory=memory, segments=segments, positions=place, memory_segments=segments
    )
    for part, where in ((a, slice(0, 4)), (b, slice(4, 10))):
        alone = model.encode(part)
        close(memory[:, where], alone)
        close(hidden[:, where], model.decode(part, memory=alone)[0])


def test_inside_a_prefix_all_see_all_and_the_rest_stays_causal():
    model, x = make('rope', decoder=2), tokens(1, 8)
    prefix = jnp.asarray([[1, 1, 1, 1, 0, 0, 0, 0]])
    changed = x.at[:, 3].set((x[:, 3] + 1) % 50)
    before, after = (model.decode(t, prefix=prefix)[0] for t in (x, changed))
    assert (jnp.abs(before - after).max(-1)[:, :4] > 1e-5).all()
    changed = x.at[:, 6].set((x[:, 6] + 1) % 50)
    close(before[:, :6], model.decode(changed, prefix=prefix)[0][:, :6], 0)


@every_variant
@pytest.mark.parametrize('encoder', [0, 2])
def test_cached_decoding_equals_full_decoding(variant, encoder):
    model, x = make(variant, encoder=encoder, decoder=2), tokens()
    memory = model.encode(tokens(seed=3)) if encoder else None
    full, _ = model.decode(x, memory=memory)
    cache, parts = model.start_cache(2, 12, memory), []
    for part in (x[:, :5], x[:, 5:6], x[:, 6:]):
        hidden, cache = model.decode(part, cache=cache)
        parts.append(hidden)
    close(jnp.concatenate(parts, axis=1), full)


@pytest.mark.parametrize('change', [dict(remat='full'), dict(remat='dots'), dict(unroll=2)])
def test_remat_and_unroll_change_no_number(change):
    plain = make('t5', encoder=2, decoder=2, dropout=0.1)
    x, key = tokens(), jax.random.key(5)

    def loss(model):
        memory = model.encode(x, key=key)
        return jnp.square(model.logits(model.decode(x, memory=memory, key=key)[0])).mean()

    other = make('t5', encoder=2, decoder=2, dropout=0.1, **change)
    for a, b in zip(
        *(jax.tree.leaves(jax.jit(jax.grad(loss))(m)) for m in (plain, other)), strict=True
    ):
        close(a, b, 1e-6)


def test_layers_run_in_order_and_each_has_its_own_weights():
    model, x = make('rope', encoder=3), tokens()
    one = dataclasses.replace(model.config, encoder_layers=1)
    leaf = jax.tree.leaves(model.encoder.blocks)[0]
    assert leaf.shape[0] == 3 and not jnp.allclose(leaf[0], leaf[1])
    hidden = model.embed(x)
    for i in range(3):
        single = build(one)
        single.encoder.blocks = jax.tree.map(lambda w, i=i: w[i : i + 1], model.encoder.blocks)
        context = _context(single, x)
        hidden, _ = jax.tree.map(lambda w: w[0], single.encoder.blocks)(hidden, context)
    close(model.encoder.norm(hidden), model.encode(x))


def _context(model, x):
    from t5x_lite.model.transformer import Context

    place = jnp.broadcast_to(jnp.arange(x.shape[1])[None], x.shape)
    return Context(positions_BxL=place)


def test_bfloat16_compute_stays_near_float32():
    x = tokens()
    a, b = (make('t5', encoder=2, dtype=d).encode(x) for d in ('float32', 'bfloat16'))
    assert b.dtype == jnp.bfloat16
    close(a, b.astype(jnp.float32), 0.15)
    assert make('t5', encoder=2, dtype='bfloat16').logits(b).dtype == jnp.float32


def test_without_a_key_there_is_no_dropout_and_with_keys_masks_differ():
    model, x = make('rope', encoder=2, dropout=0.3), tokens()
    close(model.encode(x), make('rope', encoder=2).encode(x), 0)
    a, b = (model.encode(x, key=jax.random.key(i)) for i in (0, 1))
    assert jnp.abs(a - b).max() > 1e-2


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


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(heads=5), ['heads=5', 'embed=32', 'try 4']),
        (dict(kv_heads=3), ['kv_heads=3', 'heads=4', 'try 2']),
        (dict(encoder_layers=0), ['encoder_layers=0', 'decoder_layers=0']),
        (dict(dtype='float23'), ['dtype', 'nearest: float32']),
        (dict(dropout=1.5), ['dropout=1.5', '[0, 1)']),
        (dict(mlp=0), ['mlp=0']),
        (dict(head_size=7), ['head_size=7', 'even']),
    ],
)
def test_a_bad_config_is_one_clear_message(change, words):
    with pytest.raises(ConfigError) as error:
        ModelConfig(**{**SMALL, 'encoder_layers': 1, **change})
    assert all(word in str(error.value) for word in words), error.value
