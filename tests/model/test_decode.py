"""Decoding: the cache, the batch and the mesh change no token; choices and beams by definition."""
# SPDX-License-Identifier: Apache-2.0

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_transformer import VARIANTS, close, make, tokens

from t5x_lite import sharding
from t5x_lite.errors import ConfigError
from t5x_lite.model import beam, decode
from t5x_lite.model.sampling import GREEDY, HIDDEN, Beam, Sampling

LENGTHS = (8, 3, 1, 5)
BROAD = Sampling(temperature=3.0, samples=2)


def prompts(lengths=LENGTHS):
    """Prompts, aligned; all of one model's inputs."""
    rng = np.random.default_rng(0)
    return decode.left_aligned([rng.integers(1, 50, n) for n in lengths], 8)


@functools.cache
def loud(variant, encoder=0):
    """A model whose scores are far enough apart that its tokens are not all the same."""
    model = make(variant, encoder=encoder, decoder=2)
    model.token_embedding.embedding[...] *= 30
    if model.output is not None:
        model.output.embedding[...] *= 30
    return model


@functools.partial(jax.jit, static_argnames=('how', 'length', 'eos', 'stops'))
def run(model, ids, segments, how, length, eos, stops, more):
    return decode.generate(model, ids, length, how, segments=segments, eos=eos, stops=stops, **more)


def decoded(model, how=GREEDY, some=slice(None), length=8, eos=7, stops=(), **more):
    ids, segments = prompts()
    return run(model, ids[some], segments[some], how, length, eos, stops, more)


def uncached(model, starts, length, eos=7, **memory):
    """The most likely tokens and their log-probabilities of each start alone, by whole passes."""

    @jax.jit
    def scores(ids_L, count, memory):
        real_L = (jnp.arange(len(ids_L)) < count).astype(int)
        hidden, _ = model.decode(ids_L[None], segments=real_L[None], **memory)
        return jax.nn.log_softmax(model.logits(hidden)[0, count - 1])

    def alone(row, start):
        ids, log_probs = list(start), []
        while len(log_probs) < length and not (log_probs and ids[-1] == eos):
            padded = np.pad(ids, (0, 16 - len(ids)))
            found = scores(padded, len(ids), {k: x[row : row + 1] for k, x in memory.items()})
            ids.append(int(found.argmax()))
            log_probs.append(float(found.max()))
        rest = [0] * (length - len(log_probs))
        return ids[len(start) :] + rest, log_probs + rest

    return [alone(row, start) for row, start in enumerate(starts)]


FULL = {'t5', 'modernbert'}


@pytest.mark.parametrize(
    'variant', [v if v in FULL else pytest.param(v, marks=pytest.mark.all) for v in VARIANTS]
)
def test_tokens_and_log_probabilities_are_those_of_whole_passes_of_each_prompt_alone(variant):
    model, (ids, segments) = loud(variant), prompts()
    found = decoded(model, length=6)
    starts = [row[marks > 0].tolist() for row, marks in zip(ids, segments, strict=True)]
    for row, (expected, log_probs) in enumerate(uncached(model, starts, 6)):
        assert found.tokens_BxSxL[row, 0].tolist() == expected
        close(found.log_probs_BxSxL[row, 0], log_probs, 2e-5)
        close(found.scores_BxS[row, 0], sum(log_probs), 1e-4)


@pytest.mark.parametrize('variant', ['t5', pytest.param('umt5', marks=pytest.mark.all)])
def test_an_encoder_s_memory_is_used_and_its_padding_is_not(variant):
    model = loud(variant, encoder=2)
    sources, marks = tokens(4, seed=3), jnp.ones((4, 10), int).at[1, 6:].set(0)
    memory = model.encode(sources, segments=marks)
    start = np.zeros((4, 1), np.int32)
    known = dict(memory=memory, memory_segments=marks)
    found = run(model, start, None, GREEDY, 6, 7, (), known)
    memory = memory.at[1, 6:].set(99.0)
    for row, (expected, _) in enumerate(uncached(model, [[0]] * 4, 6, **known)):
        assert found.tokens_BxSxL[row, 0].tolist() == expected
    other = run(model, start, None, GREEDY, 6, 7, (), known | {'memory': memory})
    np.testing.assert_array_equal(other.tokens_BxSxL, found.tokens_BxSxL)


@pytest.mark.parametrize('how', [BROAD, Beam(size=3, returned=2)])
def test_a_row_is_decoded_as_if_it_were_alone(how):
    """Sampling, too: a row draws with its own number."""
    model, more = loud('rope'), {'key': jax.random.key(5)}
    found = decoded(model, how, **more)
    for row in range(4):
        one = decoded(model, how, slice(row, row + 1), rows=jnp.array([row]), **more)
        np.testing.assert_array_equal(one.tokens_BxSxL[0], found.tokens_BxSxL[row])
        close(one.scores_BxS[0], found.scores_BxS[row], 1e-4)
    assert len({str(t) for t in found.tokens_BxSxL.reshape(-1, 8)}) > 5


@pytest.mark.parametrize('how', [BROAD, Beam(size=2)])
def test_a_mesh_changes_no_token(how):
    model, key = loud('t5'), jax.random.key(1)
    mesh = sharding.make_mesh(sharding.MeshShape(data=2, fsdp=2, model=2))
    ids, segments = prompts()

    def sharded(ids, segments):
        with sharding.active(mesh):
            return decode.generate(model, ids, 8, how, eos=7, segments=segments, key=key)

    rows = sharding.batch_sharding(mesh)
    many = jax.jit(sharded, in_shardings=rows)(*jax.device_put((ids, segments), rows))
    one = decoded(model, how, key=key)
    np.testing.assert_array_equal(many.tokens_BxSxL, one.tokens_BxSxL)
    close(many.log_probs_BxSxL, one.log_probs_BxSxL, 1e-4)


def test_after_the_end_there_is_only_padding_and_no_log_probability():
    model = loud('rope')
    free = decoded(model, eos=None).tokens_BxSxL[:, 0]
    end = int(free[0, 2])
    cut = decoded(model, eos=end)
    for row, ids in zip(free.tolist(), cut.tokens_BxSxL[:, 0].tolist(), strict=True):
        kept = row[: row.index(end) + 1] if end in row else row
        assert ids == kept + [0] * (8 - len(kept))
    after = jnp.cumsum(cut.tokens_BxSxL == end, axis=-1) - (cut.tokens_BxSxL == end) > 0
    assert after.any() and not cut.log_probs_BxSxL[after].any()


def test_a_stop_sequence_ends_a_row_and_stays_in_it():
    model = loud('rope')
    written = lambda *stops: decoded(model, eos=None, stops=stops).tokens_BxSxL[:, 0]
    free = written()
    stop = tuple(free[1, 2:4].tolist())
    cut = written(stop, (1, 2, 3, 4, 5, 6, 7, 8, 9))
    pairs = list(itertools.pairwise(free[1].tolist()))
    at = pairs.index(stop) + 2
    assert cut[1].tolist() == free[1, :at].tolist() + [0] * (8 - at)


# -- choices --------------------------------------------------------------------------------------


LOGITS = jnp.log(jnp.array([[0.5, 0.1, 0.25, 0.15]]))


@pytest.mark.parametrize(
    'how, shares',
    [
        (Sampling(), [0.5, 0.1, 0.25, 0.15]),
        (Sampling(top_k=2), [2 / 3, 0, 1 / 3, 0]),
        (Sampling(top_k=99), [0.5, 0.1, 0.25, 0.15]),
        (Sampling(top_p=0.5), [1, 0, 0, 0]),
        (Sampling(top_p=0.51), [2 / 3, 0, 1 / 3, 0]),
        (Sampling(top_p=1e-9), [1, 0, 0, 0]),
        (Sampling(top_p=1.0), [0.5, 0.1, 0.25, 0.15]),
        (Sampling(temperature=0.5), np.array([25, 1, 6.25, 2.25]) / 34.5),
        # 25 / 34.5 = 0.72 alone reaches 0.7: the temperature comes first
        (Sampling(temperature=0.5, top_p=0.7), [1, 0, 0, 0]),
        # of the two that top_k leaves, 2/3 alone reaches 0.6: then top_k, then top_p
        (Sampling(top_k=2, top_p=0.6), [1, 0, 0, 0]),
    ],
)
def test_what_is_drawn_from(how, shares):
    close(jax.nn.softmax(how.kept(LOGITS))[0], shares, 1e-6)


def test_draws_follow_the_distribution_and_cold_ones_the_best():
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = Sampling(top_k=3).choose(jnp.repeat(LOGITS, 20_000, 0), keys)
    close(np.bincount(drawn, minlength=4) / 20_000, [0.5556, 0, 0.2778, 0.1667], 0.01)
    cold = Sampling(temperature=9e-5).choose(jnp.array([[1.0, 1.001]]), keys[:1])
    assert cold.tolist() == [1]


@pytest.mark.parametrize(
    'make, words',
    [
        (lambda: Sampling(temperature=-1), 'temperature=-1 must be 0'),
        (lambda: Sampling(top_k=0), 'top_k=0 must be an integer'),
        (lambda: Sampling(top_p=1.5), r'top_p=1.5 must be in \(0, 1\]'),
        (lambda: Sampling(temperature=0, samples=3), 'would all be the same'),
        (lambda: Beam(size=2, returned=3), 'returned=3 must be at most size=2'),
        (lambda: Beam(alpha=-0.1), 'alpha=-0.1 must be 0 or more'),
        (lambda: decoded(loud('rope'), Sampling()), 'draws; give it a key'),
        (lambda: decoded(loud('rope'), Beam(), eos=None), 'no EOS to end with'),
        (lambda: decode.left_aligned([[1], []]), 'prompt 1: has 0 tokens'),
    ],
)
def test_what_makes_no_sense_is_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


# -- beams ----------------------------------------------------------------------------------------


def searched(how: Beam, matrix, length: int, eos: int = 0, first: int = 1):
    """Beam search where the next token depends on the last alone, by a matrix of log-probs."""
    matrix = jnp.asarray(matrix, jnp.float32)
    advance = lambda carry, token, rows: (matrix[token], carry)
    return beam.search(how, length, eos, matrix[jnp.array([first])], None, advance)


def every_hypothesis(how: Beam, matrix, length: int, eos: int = 0, first: int = 1):
    """(score, tokens) of all that end with EOS, best first."""
    out = []
    for count in range(1, length + 1):
        others = [t for t in range(len(matrix)) if t != eos]
        for ids in itertools.product(others, repeat=count - 1):
            path = (first, *ids, eos)
            total = sum(matrix[a][b] for a, b in itertools.pairwise(path))
            out.append((total / ((5 + count) / 6) ** how.alpha, (*ids, eos)))
    return sorted(out, reverse=True)


@pytest.mark.parametrize('alpha', [0.0, 0.6, 2.0])
@pytest.mark.parametrize('seed', range(4))
def test_a_beam_as_wide_as_the_tree_finds_the_best_of_all(alpha, seed):
    rng = np.random.default_rng(seed)
    matrix = np.log(rng.dirichlet(np.ones(4), 4))
    how = Beam(size=81, alpha=alpha, returned=5)  # 3 ** 4 live hypotheses at most
    found = searched(how, matrix, 5)
    best = every_hypothesis(how, matrix, 5)[:5]
    close(found.scores_BxK[0], [score for score, _ in best], 1e-5)
    for ids, (_, expected) in zip(found.tokens_BxKxL[0].tolist(), best, strict=True):
        assert ids == [*expected, *[0] * (5 - len(expected))]


def test_a_beam_of_one_is_greedy_unless_something_ended_is_better():
    #            eos   1    2
    matrix = np.log([[1.0, 1e-9, 1e-9], [0.3, 0.3, 0.4], [0.6, 0.2, 0.2]])
    found = searched(Beam(size=1, alpha=0.0), matrix, 4)
    assert found.tokens_BxKxL[0, 0].tolist() == [0, 0, 0, 0]  # 0.3 against 0.4 * 0.6
    close(found.scores_BxK[0, 0], np.log(0.3), 1e-6)


def test_a_longer_hypothesis_wins_by_the_length_penalty():
    matrix = np.log([[1.0, 1e-9, 1e-9], [0.3, 0.3, 0.4], [0.6, 0.2, 0.2]])
    found = searched(Beam(size=2, alpha=5.0), matrix, 2)
    assert found.tokens_BxKxL[0, 0].tolist() == [2, 0]  # log 0.24 / (7/6)^5 = -0.66
    close(found.scores_BxK[0, 0], np.log(0.24) / (7 / 6) ** 5, 1e-6)
    close(found.log_probs_BxKxL[0, 0], np.log([0.4, 0.6]), 1e-6)


def test_hypotheses_that_were_cut_off_come_behind_all_that_ended():
    matrix = np.log([[1.0, 1e-9, 1e-9], [0.02, 0.9, 0.08], [1e-9, 0.5, 0.5]])
    found = searched(Beam(size=4, alpha=0.0, returned=3), matrix, 1)
    assert found.tokens_BxKxL[0].tolist() == [[0], [1], [2]]
    close(found.scores_BxK[0], np.log([0.02, 0.9, 0.08]), 1e-5)


def test_where_none_has_ended_live_hypotheses_count():
    endless = np.log([[1 / 3] * 3, [1e-12, 0.6, 0.4], [1e-12, 0.5, 0.5]])
    endless[1:, 0] = HIDDEN
    found = searched(Beam(size=2, alpha=0.0), endless, 3)
    assert found.tokens_BxKxL[0, 0].tolist() == [1, 1, 1]
    close(found.scores_BxK[0, 0], 3 * np.log(0.6), 1e-5)


def test_a_settled_row_is_not_changed_by_rows_that_go_on():
    rng = np.random.default_rng(3)
    matrix = jnp.asarray(np.log(rng.dirichlet(np.ones(5), 5)), jnp.float32)
    advance = lambda carry, token, rows: (matrix[token], carry)
    run = lambda firsts: beam.search(
        Beam(size=2, returned=2), 7, 0, matrix[jnp.array(firsts)], None, advance
    )
    together = run([1, 2, 3, 4])
    for row in range(4):
        alone = run([row + 1])
        np.testing.assert_array_equal(alone.tokens_BxKxL[0], together.tokens_BxKxL[row])
        np.testing.assert_array_equal(alone.scores_BxK[0], together.scores_BxK[row])
