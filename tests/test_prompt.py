"""Prompt tuning: the base is as it was, positions lengthen, decoding goes on behind the prompt."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import types

import fixtures
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import beginning, checkpoint, frozen, sharding, step
from t5x_lite.errors import ConfigError
from t5x_lite.model.decode import generate
from t5x_lite.model.positions import Learned
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.tuning.prompt import Frequent, Labels, Prompt, Uniform
from t5x_lite.warm_start import from_checkpoint

SMALL = dict(embed=16, mlp=32, heads=2, encoder_layers=2, decoder_layers=2)
DECODER = SMALL | dict(encoder_layers=0)
ENCODER = SMALL | dict(decoder_layers=0)


def unpacked(one, **fields):
    """A causal LM's experiment whose rows hold one document."""
    stream = dataclasses.replace(one.streams['clm'], objective=causal_lm(join=False))
    return dataclasses.replace(one, streams={'clm': stream}, **fields)


def experiments():
    prompt = Prompt(length=3, init=Uniform())
    of = lambda name, model: fixtures.experiment(name, model=model, batch_size=8, adapt=prompt)
    yield 'mlm', lambda: of('mlm', ENCODER)
    yield 'span', lambda: of('span', SMALL)
    plain = lambda: fixtures.experiment('clm', model=DECODER, batch_size=8)
    yield 'clm', lambda: unpacked(plain(), adapt=prompt)


@pytest.mark.parametrize(
    'make',
    [
        pytest.param(make, id=name, marks=[] if name == 'clm' else [pytest.mark.all])
        for name, make in experiments()
    ],
)
def test_only_the_prompt_learns(make):
    one = make()
    mesh = sharding.make_mesh(one.mesh, jax.devices()[:1])
    state, train_step = step.make_init(one, mesh)(), step.make_train_step(one, mesh)
    before = {path: np.asarray(x) for path, x in frozen.flat(state.params).items()}
    for batches in fixtures.batches(one, 2):
        placed = {name: sharding.put_batch(batch, mesh) for name, batch in batches.items()}
        state, _ = train_step(state, placed)
    moved = {p for p, x in frozen.flat(state.params).items() if (before[p] != np.asarray(x)).any()}
    assert moved == {'prompt/embedding'}
    held = sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim)
    assert held == 2 * 3 * 16  # Adam's two moments


def model_of(**fields):
    one = fixtures.experiment('span', model=SMALL)
    config = dataclasses.replace(one.model, **fields)
    from t5x_lite.model import transformer

    return transformer.build(config)


@pytest.mark.parametrize('positions', [pytest.param(None, marks=pytest.mark.all), Learned(16)])
def test_a_prompt_of_token_embeddings_is_these_tokens(positions):
    """Encoder: the states of the text are those behind the tokens written out; padding is blind."""
    model = model_of(**({'positions': positions} if positions else {}), decoder_layers=0)
    tokens_BxL = jnp.array([[9, 10, 11, 0], [12, 13, 14, 15]])
    segments_BxL = (tokens_BxL > 0).astype(int)
    front = jnp.tile(jnp.array([[20, 21]]), (2, 1))
    long, marks = jnp.concatenate([front, tokens_BxL], 1), jnp.pad(segments_BxL, ((0, 0), (2, 0)))
    expected = model.encode(long, segments=marks.at[:, :2].set(1))[:, 2:]
    Prompt(length=2, init=Labels(((20,), (21,)))).apply(model, jax.random.key(0))
    found = model.encode(tokens_BxL, segments=segments_BxL)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.all
def test_a_decoder_goes_on_behind_its_prompt_with_and_without_a_cache():
    model = model_of(encoder_layers=0)
    tokens_BxL = jnp.array([[9, 10, 11], [12, 13, 14]])
    front = jnp.tile(jnp.array([[20, 21]]), (2, 1))
    greedy = lambda ids: generate(model, ids, 4, eos=None).tokens_BxSxL
    written = greedy(jnp.concatenate([front, tokens_BxL], 1))
    expected, _ = model.decode(jnp.concatenate([front, tokens_BxL], 1))
    Prompt(length=2, init=Labels(((20,), (21,)))).apply(model, jax.random.key(0))
    found, _ = model.decode(tokens_BxL)
    np.testing.assert_allclose(found, expected[:, 2:], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(greedy(tokens_BxL), written)


@pytest.mark.all
def test_a_decoder_sees_the_prompt_of_its_encoder():
    model = model_of()
    tokens_BxL, segments_BxL = jnp.array([[9, 10, 0]]), jnp.array([[1, 1, 0]])
    target = jnp.array([[1, 12]])
    long, marks = jnp.array([[20, 9, 10, 0]]), jnp.array([[1, 1, 1, 0]])
    memory = model.encode(long, segments=marks)
    expected, _ = model.decode(target, memory=memory, memory_segments=marks)
    Prompt(length=1, init=Labels(((20,),))).apply(model, jax.random.key(0))
    memory = model.encode(tokens_BxL, segments=segments_BxL)
    found, _ = model.decode(target, memory=memory, memory_segments=segments_BxL)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_vectors_by_literal():
    table_VxD = jnp.arange(12.0).reshape(6, 2)
    first = Labels(((1, 2), (3,))).vectors(table_VxD, 2, jax.random.key(0))
    np.testing.assert_array_equal(first, [[3.0, 4.0], [6.0, 7.0]])
    drawn = np.asarray(Frequent(3).vectors(table_VxD, 3, jax.random.key(0)))
    assert sorted(drawn[:, 0].tolist()) == [0.0, 2.0, 4.0]
    uniform = np.asarray(Uniform(0.5).vectors(table_VxD, 1000, jax.random.key(0)))
    assert -0.5 <= uniform.min() < -0.49 and 0.49 < uniform.max() <= 0.5


def test_labels_may_be_texts():
    vocabulary = types.SimpleNamespace(encode=lambda text: np.array([ord(x) for x in text]))
    assert Labels.of(('no', 'a'), vocabulary) == Labels(((110, 111), (97,)))
    with pytest.raises(ConfigError, match='token ids of one label or more'):
        Labels.of(('',), vocabulary)


def test_labels_that_no_prompt_or_vocabulary_holds_are_refused():
    table_VxD = jnp.zeros((6, 2))
    for labels, length in ((Labels(((1, 6),)), 3), (Labels(((1,), (2,))), 1)):
        with pytest.raises(ConfigError, match='at most the length=. of the prompt, of ids below'):
            labels.vectors(table_VxD, length, jax.random.key(0))


def test_a_prompt_is_made_of_the_embeddings_that_a_run_begins_with(tmp_path):
    base = fixtures.experiment('mlm', model=ENCODER, seed=7)
    params = step.init_state(base).params
    checkpoint.write_params(tmp_path / 'checkpoints', params)
    init = from_checkpoint(str(tmp_path))
    adapt = Prompt(length=1, init=Labels(((9,),)))
    one = dataclasses.replace(base, adapt=adapt, init=init, seed=0)
    mesh = sharding.make_mesh(one.mesh, jax.devices()[:1])
    state = step.start_from(one, mesh, beginning.open_init(one))
    table = params['token_embedding']['embedding']
    np.testing.assert_array_equal(state.params['token_embedding']['embedding'], table)
    np.testing.assert_array_equal(state.params['prompt']['embedding'][0], table[9])


def test_rows_that_a_prompt_cannot_stand_before_are_refused():
    with pytest.raises(ConfigError, match='several examples'):
        fixtures.experiment('clm', model=DECODER, adapt=Prompt(length=3))
    short = ENCODER | dict(positions=Learned(18))
    with pytest.raises(ConfigError, match=r"length=3 with the 16 tokens of stream 'mlm'.*length=2"):
        fixtures.experiment('mlm', model=short, adapt=Prompt(length=3), batch_size=2)
    fixtures.experiment('mlm', model=short, adapt=Prompt(length=2), batch_size=64)
    with pytest.raises(ConfigError, match='does not run through the decoder'):
        fixtures.experiment('mlm', model=SMALL, adapt=Prompt(length=3))
