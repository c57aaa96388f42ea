"""Packing: every example once and whole, no leaks, the loss of unpacked rows; what is refused."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import functools

import fixtures
import jax
import numpy as np
import pytest

from t5x_lite import step
from t5x_lite.data import best_fit
from t5x_lite.data.loader import ShardBatches
from t5x_lite.errors import ConfigError
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.objectives.contrastive import simcse
from t5x_lite.objectives.mlm import mlm
from t5x_lite.objectives.packed import packed
from t5x_lite.objectives.prefix_lm import prefix_lm, prefix_seq2seq
from t5x_lite.objectives.replaced_tokens import electra

ONE, BOTH = {'targets': 64}, {'inputs': 64, 'targets': 48}
OBJECTIVES = {
    'clm': (causal_lm(join=False), ONE),
    'mlm': (mlm(), ONE),
    'prefix': (prefix_lm(), ONE),
    'pair': (prefix_seq2seq(), BOTH),
}


def documents(seed=0, count=400, least=2, most=40):
    """Documents of words and of token 0, which is padding only outside of documents."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        tokens = rng.integers(6, 56, rng.integers(least, most)).astype(np.int32)
        tokens[rng.random(len(tokens)) < 0.1] = 0
        yield {'targets': tokens}


def batches(objective, lengths, rows=8, seed=0, **sizes):
    shard = ShardBatches(
        documents(**sizes), objective.converter, lengths, fixtures.vocabulary(), rows, (seed,)
    )
    return list(shard)


def examples(batches, side):
    """Every segment of every row, as a tuple of tokens, positions and, if there are, weights."""
    names = [f'{side}_{n}' for n in ('input_tokens', 'target_tokens', 'loss_weights', 'positions')]
    found = []
    for batch in batches:
        present = [name for name in names if name in batch]
        for row, segments in enumerate(batch[f'{side}_segment_ids']):
            for segment in range(1, segments.max() + 1):
                inside = segments == segment
                assert (np.diff(np.flatnonzero(inside)) == 1).all()  # in one piece
                found.append(tuple(tuple(batch[n][row][inside].tolist()) for n in present))
    return sorted(found)


@pytest.mark.parametrize('name', ['clm'])
def test_every_example_is_there_once_and_whole_with_token_0_inside(name):
    objective, lengths = OBJECTIVES[name]
    plain = examples(batches(objective, lengths), 'decoder')
    assert examples(batches(packed(objective=objective, buffer=64), lengths), 'decoder') == plain
    assert len(plain) == 400 and any(0 in tokens for _, tokens, *_ in plain)


@pytest.mark.parametrize('name', OBJECTIVES)
def test_rows_are_full_and_positions_restart(name):
    objective, lengths = OBJECTIVES[name]
    made = batches(packed(objective=objective, buffer=64), lengths)
    for side in {name.split('_')[0] for name in made[0]}:
        segments = np.concatenate([batch[f'{side}_segment_ids'] for batch in made])
        positions = np.concatenate([batch[f'{side}_positions'] for batch in made])
        starts = np.diff(segments, axis=1, prepend=0) > 0
        assert (positions[starts] == 0).all() and starts.sum(1).max() > 2
        real = segments.any(1)
        if name != 'pair':  # two sides are full together only where examples fit so
            assert (segments[real][:-20] > 0).mean() > 0.95


def test_both_sides_of_a_pair_have_the_same_segment():
    made = batches(packed(objective=prefix_seq2seq(), buffer=64), BOTH)
    for batch in made:
        for a, b in zip(batch['encoder_segment_ids'], batch['decoder_segment_ids'], strict=True):
            assert set(a[a > 0]) == set(b[b > 0])


def test_the_largest_that_fits_follows_the_oldest():
    sizes = np.array([[3], [9], [5], [2], [6]])
    assert best_fit.largest_first(sizes, np.array([10]), 0) == [[0, 4], [1], [2, 3]]
    assert best_fit.largest_first(sizes, np.array([10]), 3) == [[0, 4], [1]]
    two = np.array([[3, 9], [6, 2], [6, 1]])
    assert best_fit.largest_first(two, np.array([10, 10]), 0) == [[0, 2], [1]]


@pytest.mark.parametrize('name', OBJECTIVES)
def test_a_saved_position_goes_on_to_the_same_rows(name):
    objective, lengths = OBJECTIVES[name]
    converter, vocabulary = packed(objective=objective, buffer=64).converter, fixtures.vocabulary()
    texts = list(documents())

    def rows_after(cutter, texts):
        for text in texts:
            cutter.add(text)
        cutter.flush()
        return cutter.take(cutter.ready())

    cutter = converter.cutter(lengths, vocabulary, (1,))
    for text in texts[:200]:
        cutter.add(text)
    cutter.take(min(3, cutter.ready()))
    again = converter.cutter(lengths, vocabulary, (1,))
    again.restore(cutter.state())
    expected, found = rows_after(cutter, texts[200:]), rows_after(again, texts[200:])
    for array, values in expected.items():
        np.testing.assert_array_equal(found[array], values)


@pytest.mark.one
@pytest.mark.parametrize('name', ['clm', 'pair'])
def test_packed_rows_have_the_loss_of_unpacked_ones(name):
    objective, lengths = OBJECTIVES[name]
    experiment = fixtures.experiment('clm', model=dict(encoder_layers=1, decoder_layers=1))
    stream = dataclasses.replace(
        experiment.streams['clm'], objective=objective, lengths=lengths, batch_size=4
    )
    experiment = dataclasses.replace(experiment, streams={'text': stream})
    model = step.model_of(experiment)(step.init_state(experiment).params)
    tight = packed(objective=objective, buffer=8)
    made, sums = batches(tight, lengths, rows=4, count=30), []
    for one, rows in ((tight, made), (objective, [apart(batch) for batch in made])):
        means = jax.jit(functools.partial(one.means, model))
        found = [means(batch)[next(iter(objective.terms))] for batch in rows]
        sums.append(np.sum([[*m['nll'], *m['accuracy']] for m in found], axis=0))
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-5)
    assert sums[0][1] > 100


def apart(batch, rows=40):
    """The batch with a row of its own for each segment, and empty rows."""
    side = next(iter(batch)).split('_')[0]
    segments = batch[f'{side}_segment_ids']
    places = [(row, s) for row, x in enumerate(segments) for s in range(1, x.max() + 1)]
    out = {name: np.zeros((rows, x.shape[1]), x.dtype) for name, x in batch.items()}
    for new, (row, segment) in enumerate(places):
        for name, x in batch.items():
            inside = batch[f'{name.split("_")[0]}_segment_ids'][row] == segment
            values = x[row][inside]
            out[name][new, : len(values)] = 1 if name.endswith('segment_ids') else values
    return out


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Masked LM's rows with a label for each."""

    inner: object = mlm().converter
    features, longest = ('targets',), None

    def check(self, lengths, vocabulary=None):
        pass

    def spec(self, lengths):
        return {**self.inner.spec(lengths), 'labels': ((), np.int32)}


def test_what_is_one_for_a_row_is_refused():
    with pytest.raises(ConfigError, match="packed: term 'simcse' makes one vector of a row"):
        packed(objective=simcse())
    objective = packed(objective=dataclasses.replace(mlm(), converter=Labelled()))
    with pytest.raises(ConfigError, match=r'packed: labels of shape \(\) has no value for each'):
        objective.converter.check(ONE)
    with pytest.raises(ConfigError, match='packed: generator reads rows of one example'):
        packed(objective=electra())
    with pytest.raises(ConfigError, match='hold several segments already'):
        batches(packed(objective=causal_lm()), ONE)
    with pytest.raises(ConfigError, match='packed: buffer=1 must be'):
        packed(objective=mlm(), buffer=1)
