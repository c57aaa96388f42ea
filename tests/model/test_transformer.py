"""What every model must honour: causality, padding, packing, prefix, the cache, scan and remat."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.errors import ConfigError
from t5x_lite.model import activations, inits, norms, positions
from t5x_lite.model.config import Local, ModelConfig
from t5x_lite.model.transformer import both_ways, build

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
    'umt5': dict(positions=positions.Relative(8, 16, per_layer=True), scale_attention=False),
    'modernbert': dict(
        positions=positions.Rope(160_000.0, local_base=10_000.0),
        norm=norms.LayerNorm(bias=False),
        norm_embedding=True,
        first_norm=False,
        local=Local(reach=9, global_every=2),
        gated=True,
    ),
    'qwen': dict(kv_heads=2, qk_norm=True, attention_cap=50.0, logits_cap=30.0, tied=False),
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


TELLING = {'rope', 't5', 'modernbert'}
every_variant = pytest.mark.parametrize(
    'variant', [v if v in TELLING else pytest.param(v, marks=pytest.mark.all) for v in VARIANTS]
)


@pytest.mark.one
@every_variant
def test_a_decoder_sees_no_future(variant):
    model, x = make(variant, decoder=2), tokens()
    changed = x.at[:, 6].set((x[:, 6] + 1) % 50)
    before, after = model.decode(x)[0], model.decode(changed)[0]
    close(before[:, :6], after[:, :6], 0)
    assert jnp.abs(before[:, 6:] - after[:, 6:]).max() > 1e-4


@pytest.mark.one
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


@pytest.mark.one
@pytest.mark.parametrize(
    'change', [dict(remat='full'), dict(remat='dots'), dict(remat='offload'), dict(unroll=2)]
)
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
        context = both_ways(single.encoder, x, dropping=False)
        hidden, _ = jax.tree.map(lambda w: w[0], single.encoder.blocks)(hidden, context, i)
    close(model.encoder.norm(hidden), model.encode(x))


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


def test_a_window_hides_what_is_farther_away_but_not_in_global_layers():
    x, window = tokens(1, 12), Local(reach=2)
    changed = x.at[:, 8].set((x[:, 8] + 1) % 50)
    near = make('rope', encoder=1, local=window)
    moved = jnp.abs(near.encode(x) - near.encode(changed)).max(-1)[0] > 1e-6
    assert moved.tolist() == [6 <= i <= 10 for i in range(12)]
    every = make('rope', encoder=1, local=Local(reach=2, global_every=3))
    assert (jnp.abs(every.encode(x) - every.encode(changed)).max(-1) > 1e-6).all()
    # of two layers the second is local: what the first one saw everywhere stays seen
    two = make('rope', encoder=2, local=Local(reach=2, global_every=2))
    assert (jnp.abs(two.encode(x) - two.encode(changed)).max(-1) > 1e-7).all()


def test_the_local_base_turns_local_layers_only():
    x = tokens(1, 12)
    rope = dict(base=100.0, local_base=10_000.0)
    variant = lambda position, local: build(
        ModelConfig(**SMALL, encoder_layers=1, positions=position, local=local), seed=1
    ).encode(x)
    wide = Local(reach=50)
    close(variant(positions.Rope(**rope), wide), variant(positions.Rope(10_000.0), wide))
    every = Local(reach=50, global_every=1)
    close(variant(positions.Rope(**rope), every), variant(positions.Rope(100.0), None))


def test_the_first_norm_can_be_left_out():
    x = tokens()
    model = make('rope', encoder=2, first_norm=False)
    scale = model.encoder.blocks.attention_norm.scale
    before = model.encode(x)
    scale[...] = scale[...].at[0].set(7.0)
    close(before, model.encode(x), 0)
    scale[...] = scale[...].at[1].set(7.0)
    assert jnp.abs(before - model.encode(x)).max() > 1e-3


def test_sentence_marks_and_narrow_tables():
    config = ModelConfig(
        **SMALL,
        encoder_layers=2,
        types=2,
        embedding_size=8,
        positions=positions.Learned(16, offset=2),
        norm_embedding=True,
    )
    model, x = build(config, seed=1), tokens()
    assert model.token_embedding.embedding.shape == (50, 8)
    assert model.encoder.positions.embedding.shape == (18, 8)
    assert model.encode(x).shape == (2, 10, 32)
    zeros = jnp.zeros_like(x)
    close(model.encode(x), model.encode(x, types=zeros), 0)
    assert jnp.abs(model.encode(x) - model.encode(x, types=zeros + 1)).max() > 1e-4


def test_rows_that_pad_the_table_are_never_scored():
    x = tokens()
    plain = make('rope', decoder=1)
    padded = make('rope', decoder=1, vocab_multiple=64)
    table = jnp.pad(plain.token_embedding.embedding[...], ((0, 14), (0, 0)), constant_values=1.0)
    padded.token_embedding.embedding[...] = table
    padded.decoder = plain.decoder
    a, b = (model.logits(model.decode(x)[0]) for model in (plain, padded))
    assert b.shape[-1] == 64
    close(jax.nn.log_softmax(a), jax.nn.log_softmax(b)[..., :50])
    assert (jax.nn.softmax(b)[..., 50:] == 0).all()


def test_logits_are_capped_smoothly():
    model, x = make('qwen', decoder=1), tokens()
    logits = model.logits(1e4 * model.decode(x)[0])
    assert 29.0 < jnp.abs(logits).max() <= 30.0
