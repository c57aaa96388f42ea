"""Mixing: realised rates, rates that follow the step, positions, and what is refused."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite.data import loader, seqio_source, vocabularies
from t5x_lite.data.mixing import BySize, Mixed
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Stream
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.schedules import Linear

BUNDLED = vocabularies.bundled()
FAR = 10**6  # apart are the numbers of two sources
SIZES = {'small': 4, 'large': 64, 'unknown': None}


class Count:
    """An endless source of numbers whose position can be saved."""

    def __init__(self, first: int):
        self.at = first

    def __next__(self):
        self.at += 1
        return self.at - 1

    def state(self):
        return {'at': np.int64(self.at)}

    def restore(self, state):
        self.at = int(state['at'])


def mixed(seed=0, **rates):
    return Mixed({name: Count(FAR * i) for i, name in enumerate(rates)}, rates, (seed,))


def test_shares_are_the_rates_over_their_sum():
    examples = mixed(a=1.0, b=2.0, c=1)
    found = np.array(list(itertools.islice(examples, 20_000)))
    assert examples.drawn == {n: int((found // FAR == i).sum()) for i, n in enumerate('abc')}
    for name, share in (('a', 0.25), ('b', 0.5), ('c', 0.25)):
        assert examples.drawn[name] / 20_000 == pytest.approx(share, abs=0.01)


def test_each_task_goes_on_where_it_was():
    found = list(itertools.islice(mixed(a=1.0, b=1.0), 500))
    first, second = ([x for x in found if x // FAR == i] for i in (0, 1))
    assert first == list(range(len(first))) and second == list(range(FAR, FAR + len(second)))


def test_rates_follow_the_step():
    examples = mixed(a=lambda step: 1.0 - step / 10, b=lambda step: step / 10)
    shares = []
    for step in (0, 3, 10):
        examples.begin(step)
        before = examples.drawn['b']
        list(itertools.islice(examples, 5000))
        shares.append((examples.drawn['b'] - before) / 5000)
    assert shares == pytest.approx([0.0, 0.3, 1.0], abs=0.02)


def test_restored_mixing_goes_on():
    examples = mixed(a=1.0, b=3.0)
    list(itertools.islice(examples, 300))
    state = examples.state()
    expected = list(itertools.islice(examples, 300))
    again = mixed(a=1.0, b=3.0)
    again.restore(state)
    assert list(itertools.islice(again, 300)) == expected
    assert list(itertools.islice(mixed(seed=1, a=1.0, b=3.0), 600))[300:] != expected


def test_rates_that_are_negative_or_all_0_at_a_step_are_refused():
    examples = mixed(a=lambda step: 1.0 - step, b=0.0)
    with pytest.raises(ConfigError, match=r"rates=\{'a': 0.0, 'b': 0.0\} at step 1"):
        examples.begin(1)
    with pytest.raises(ConfigError, match='at step 2 must be 0 or more'):
        examples.begin(2)


def test_rates_by_size_with_temperature_and_cap():
    assert BySize()({'a': 4, 'b': 64}) == {'a': 4.0, 'b': 64.0}
    assert BySize(temperature=2.0)({'a': 4, 'b': 64}) == {'a': 2.0, 'b': 8.0}
    assert BySize(cap=16)({'a': 4, 'b': 64}) == {'a': 4.0, 'b': 16.0}
    with pytest.raises(ConfigError, match='temperature=0 must be above 0'):
        BySize(temperature=0)


def words(name):
    def read(split, shuffle_files, seed=None):
        rows = [f'{name} x{i} ' * 4 for i in range(SIZES[name] or 8)]
        return tf.data.Dataset.from_tensor_slices({'targets': rows})

    return read


@pytest.fixture(scope='module', autouse=True)
def tasks():
    for name, size in SIZES.items():
        seqio.TaskRegistry.add(
            name,
            seqio.FunctionDataSource(
                words(name),
                splits=('train',),
                num_input_examples={'train': size} if size else None,
            ),
            preprocessors=[seqio.preprocessors.tokenize],
            output_features={'targets': seqio.Feature(BUNDLED, add_eos=False)},
        )
    seqio.MixtureRegistry.add('two', [('small', 1.0), ('large', 3.0)])
    seqio.MixtureRegistry.add('three', [('two', 1.0), ('unknown', 1.0)])
    yield
    for name in ('three', 'two'):
        seqio.MixtureRegistry.remove(name)
    for name in SIZES:
        seqio.TaskRegistry.remove(name)


def test_rates_of_a_mixture_are_seqios_own_unless_others_are_given():
    assert seqio_source.rates('two', 'train') == {'large': 3.0, 'small': 1.0}
    assert seqio_source.rates('three', 'train') == pytest.approx(
        {'large': 0.75, 'small': 0.25, 'unknown': 1.0}
    )
    assert seqio_source.rates('small', 'train') == {'small': 1.0}
    ramp = Linear(peak=1.0, warmup=1, steps=9)
    own = seqio_source.rates('two', 'train', {'small': ramp, 'large': 1})
    assert own == {'large': 1, 'small': ramp}
    assert seqio_source.rates('two', 'train', BySize(temperature=2.0)) == {'large': 8, 'small': 2}


@pytest.mark.parametrize(
    'mixture, own, message',
    [
        ('two', {'smal': 1.0, 'large': 1.0}, "a task 'smal' that mixture 'two' has not.*small"),
        ('two', {'small': 1.0}, "rates lack task 'large' of mixture 'two'; give it a number"),
        ('three', BySize(), "task 'unknown', which its source does not know; give each"),
    ],
)
def test_rates_that_do_not_fit_the_mixture_are_refused(mixture, own, message):
    with pytest.raises(ConfigError, match=message):
        seqio_source.rates(mixture, 'train', own)


def test_a_stream_draws_at_its_rates_and_goes_on_where_it_was(monkeypatch):
    monkeypatch.setattr(loader, 'SNAPSHOT_EVERY', 4)
    ramp = Linear(peak=1.0, warmup=20, steps=1000)
    stream = Stream(
        mixture='two',
        objective=causal_lm(),
        lengths={'targets': 16},
        batch_size=8,
        rates={'small': 1.0, 'large': ramp},
    )
    rows = loader.open_stream(stream, 'text')
    batches = list(itertools.islice(rows, 4))
    early = dict(rows.counts)
    batches += itertools.islice(rows, 26)
    state = rows.state()
    late = {name: count - early[name] for name, count in rows.counts.items()}
    batches += itertools.islice(rows, 10)
    rows.close()
    share = lambda c: c['examples/large'] / (c['examples/large'] + c['examples/small'])
    assert share(early) < 0.2 < 0.3 < share(late)
    rows = loader.open_stream(dataclasses.replace(stream), 'text')
    rows.restore(state)
    for expected, batch in zip(batches[30:], rows, strict=False):
        for name, array in batch.items():
            np.testing.assert_array_equal(array, expected[name])
    rows.close()
