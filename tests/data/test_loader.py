"""The loader: the same batches after any restart and on any number of hosts; what it refuses."""
# SPDX-License-Identifier: Apache-2.0

import itertools

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite.data import loader, seqio_source, vocabularies
from t5x_lite.errors import ConfigError, RunError
from t5x_lite.experiment import Stream
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.objectives.mlm import mlm
from t5x_lite.objectives.span_corruption import span_corruption

CORPUS = ('t5x_lite.data.tasks.corpus_en_pd',)
DOCUMENTS = 11  # of the tasks below: 1, 2, .. 11 words of their own

BYTES = seqio.ByteVocabulary(extra_ids=0)
BUNDLED = vocabularies.bundled()


def numbered(split, shuffle_files, seed=None):
    count = {'train': DOCUMENTS, 'empty': 0}.get(split, DOCUMENTS)
    rows = [' '.join([f'x{i}'] * i) for i in range(1, count + 1)]
    return tf.data.Dataset.from_tensor_slices({'targets': tf.constant(rows, tf.string)})


def break_at_the_fifth(dataset):
    def check(i, example):
        with tf.control_dependencies([tf.debugging.assert_less(i, 4, 'the fifth is broken')]):
            return {name: tf.identity(value) for name, value in example.items()}

    return dataset.enumerate().map(lambda i, example: check(tf.cast(i, tf.int32), example))


def add_task(name: str, vocabulary=BUNDLED, *steps, feature='targets', splits=('train', 'empty')):
    rename = lambda dataset: dataset.map(lambda example: {feature: example['targets']})
    seqio.TaskRegistry.add(
        name,
        seqio.FunctionDataSource(numbered, splits=splits),
        preprocessors=[rename, seqio.preprocessors.tokenize, *steps],
        output_features={feature: seqio.Feature(vocabulary, add_eos=False)},
        shuffle_buffer_size=4,
    )


@pytest.fixture(scope='module', autouse=True)
def tasks():
    add_task('numbered')
    add_task('broken', BUNDLED, break_at_the_fifth)
    add_task('bytes', BYTES)
    add_task('inputs_only', feature='inputs')
    yield
    for name in ('numbered', 'broken', 'bytes', 'inputs_only'):
        seqio.TaskRegistry.remove(name)


def stream(mixture, objective=None, length=8, batch_size=4):
    lengths = {'targets': length}
    return Stream(
        mixture=mixture, objective=objective or causal_lm(), lengths=lengths, batch_size=batch_size
    )


def take(rows, count):
    return list(itertools.islice(rows, count))


def assert_equal(batches, expected):
    assert len(batches) == len(expected) > 0
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        for name, array in batch.items():
            np.testing.assert_array_equal(array, other[name], err_msg=name)


def restored(state, open_again):
    rows = open_again()
    rows.restore(state)
    return rows


@pytest.mark.one
@pytest.mark.parametrize('objective', [causal_lm(), mlm()], ids=['clm', 'mlm'])
def test_restored_loader_goes_on_at_any_point_and_across_epochs(monkeypatch, objective):
    monkeypatch.setattr(loader, 'SNAPSHOT_EVERY', 5)
    open_again = lambda: loader.open_stream(stream('numbered', objective), 'text', seed=3)
    rows = open_again()
    states, batches = [rows.state()], []
    for batch in itertools.islice(rows, 30):  # 32 tokens each, some 200 an epoch
        batches.append(batch)
        states.append(rows.state())
    rows.close()
    assert [state['skip'] for state in states[:12]] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    for at in (0, 1, 4, 5, 7, 13, 20, 28):
        rows = restored(states[at], open_again)
        assert_equal(take(rows, 30 - at), batches[at:])
        rows.close()


def test_loader_restored_again_and_again_goes_on(monkeypatch):
    monkeypatch.setattr(loader, 'SNAPSHOT_EVERY', 5)
    open_again = lambda: loader.open_stream(stream('numbered'), 'text', seed=3)
    rows = open_again()
    expected = take(rows, 24)
    rows.close()
    batches, state = [], open_again().state()
    for count in (0, 2, 1, 4, 0, 6, 3, 8):
        rows = restored(state, open_again)
        batches += take(rows, count)
        state = rows.state()
        rows.close()
    assert_equal(batches, expected)


def test_mixture_of_the_corpus_goes_on_from_a_snapshot(monkeypatch):
    monkeypatch.setattr(loader, 'SNAPSHOT_EVERY', 5)
    mixed = stream('corpus_en_pd_mix', length=2048)
    open_again = lambda: loader.open_stream(mixed, 'text', imports=CORPUS)
    rows = open_again()
    batches = take(rows, 13)
    state = rows.state()
    batches += take(rows, 12)
    rows.close()
    assert state['skip'] == 3 and state['shards']
    rows = restored(state, open_again)
    assert_equal(take(rows, 12), batches[13:])
    rows.close()


def test_batches_do_not_depend_on_the_number_of_hosts(monkeypatch):
    monkeypatch.setattr(loader, 'SNAPSHOT_EVERY', 3)

    def open_host(index, count):
        text = stream('numbered', mlm(), batch_size=8)
        return loader.open_stream(text, 'text', data_shards=4, hosts=(index, count))

    whole, first, second = open_host(0, 1), open_host(0, 2), open_host(1, 2)
    expected, parts = take(whole, 7), (take(first, 4), take(second, 4))
    together = [
        {name: np.concatenate([a[name], b[name]]) for name in a}
        for a, b in zip(*parts, strict=True)
    ]
    assert_equal(together, expected[:4])
    states = first.state(), second.state()
    shards = states[0]['shards'] | states[1]['shards']
    assert sorted(shards) == [0, 1, 2, 3]
    one = open_host(0, 1)
    one.restore({'skip': states[0]['skip'], 'shards': shards})
    assert_equal(take(one, 3), expected[4:])
    for rows in (whole, first, second, one):
        rows.close()


def test_one_pass_gives_every_token_once_and_pads_the_last_batch_without_weight():
    rows = loader.open_stream(stream('numbered'), 'text', training=False)
    batches = list(rows)
    rows.close()
    assert {batch['decoder_target_tokens'].shape for batch in batches} == {(4, 8)}
    scored = [b['decoder_target_tokens'][b['decoder_loss_weights'] > 0] for b in batches]
    documents = seqio_source.Examples('numbered', ('targets',), split='train')
    expected = [np.append(document['targets'], 1) for document in documents]
    np.testing.assert_array_equal(np.concatenate(scored), np.concatenate(expected))
    assert len(expected) == DOCUMENTS
    last = batches[-1]
    unused = last['decoder_segment_ids'] == 0
    assert unused.any() and not last['decoder_loss_weights'][unused].any()


def test_one_pass_can_be_made_again():
    passes = []
    for _ in range(2):
        rows = loader.open_stream(stream('numbered'), 'text', training=False)
        passes.append(list(rows))
        assert next(rows, None) is None and next(rows, None) is None
        rows.close()
    assert_equal(*passes)


def test_error_of_the_pipeline_reaches_the_caller_after_the_batches_before_it():
    rows = loader.open_stream(stream('broken', batch_size=1, length=4), 'text', training=False)
    assert len(take(rows, 2)) == 2
    with pytest.raises(RunError, match="split 'train' of 'broken'.*the fifth is broken"):
        list(rows)
    rows.close()


def test_close_ends_the_thread_while_batches_wait():
    rows = loader.open_stream(stream('numbered'), 'text')
    next(rows)
    rows.close()
    assert not rows._thread.is_alive()


def test_data_to_repeat_without_an_example_is_refused():
    rows = loader.open_stream(stream('numbered'), 'text', split='empty')
    with pytest.raises(ConfigError, match="split 'empty' of 'numbered' has no examples to repeat"):
        next(rows)
    rows.close()


def test_documents_that_are_all_too_short_are_refused_and_not_read_for_ever(monkeypatch):
    monkeypatch.setattr(loader, 'PATIENCE', 50)
    shorts = ({'targets': np.zeros(1, np.int32)} for _ in itertools.count())
    converter = mlm().converter
    lengths, info = {'targets': 8}, vocabularies.describe(BUNDLED)
    rows = loader.ShardBatches(shorts, converter, lengths, info, rows=4, seed=(0,))
    with pytest.raises(ConfigError, match='50 examples in a row were too short'):
        next(rows)


REFUSED = {
    'a mixture that is not there': (
        stream('numberd'),
        {},
        r"mixture 'numberd' is registered by none of imports=\(\); nearest: numbered",
    ),
    'a split that is not there': (
        stream('numbered'),
        {'split': 'test'},
        "mixture 'numbered' has no split 'test'; it has .*train",
    ),
    'a module that does not import': (
        stream('numbered'),
        {'imports': ('no_such_module',)},
        "imports: 'no_such_module' does not import",
    ),
    'a feature that is not there': (
        stream('inputs_only'),
        {},
        "'inputs_only' has no feature 'targets', which its objective reads; it has inputs",
    ),
    'a vocabulary without a mask': (
        stream('bytes', mlm()),
        {},
        'mlm: the vocabulary of 259 ids has no cls id, .* needs cls, sep, mask',
    ),
    'a vocabulary without sentinels': (
        Stream(
            mixture='bytes',
            objective=span_corruption(),
            lengths={'inputs': 64, 'targets': 32},
            batch_size=4,
        ),
        {},
        'sentinel',
    ),
    'shards that hosts cannot divide': (
        stream('numbered', batch_size=6),
        {'data_shards': 3, 'hosts': (0, 2)},
        'data_shards=3 must be a multiple of the number of hosts 2; try 4',
    ),
}


@pytest.mark.parametrize('what', REFUSED)
def test_refused(what):
    refused, options, message = REFUSED[what]
    with pytest.raises(ConfigError, match=message):
        loader.open_stream(refused, 'text', **options)


def pieces(longest, seed=0, count=40, size=20):
    """What a converter with that `longest` makes of documents of the tokens 10, 11, .. 29."""
    converter = span_corruption(density=0.0, longest=longest).converter
    lengths = {'inputs': 8, 'targets': 8}
    documents = iter([{'targets': np.arange(10, 10 + size, dtype=np.int32)}] * count)
    info = vocabularies.describe(BUNDLED)
    rows = loader.ShardBatches(documents, converter, lengths, info, rows=1, seed=(seed,))
    tokens = np.concatenate([batch['encoder_input_tokens'][0] for batch in rows])
    return tokens[tokens >= 10].tolist()


def test_of_a_long_document_one_piece_is_used_drawn_for_each_document():
    assert pieces(None) == pieces(20) == list(range(10, 30)) * 40
    found = pieces(8)
    starts = [token for token in found if token in (10, 18, 26)]
    assert {starts.count(start) > 5 for start in (10, 18, 26)} == {True} and len(starts) == 40
    expected = {10: range(10, 18), 18: range(18, 26), 26: range(26, 30)}
    whole = [token for start in starts for token in expected[start]]
    assert found == whole[: len(found)] and len(whole) - len(found) < 2  # a row of one is no row
    assert found == pieces(8) != pieces(8, seed=1)


def test_documents_too_short_to_use_are_counted_with_the_batch_that_follows_them():
    sizes = [5, 1, 0, 5, 1, 5]
    documents = iter([{'targets': np.full(n, 20, np.int32)} for n in sizes])
    info, lengths = vocabularies.describe(BUNDLED), {'targets': 8}
    shard = loader.ShardBatches(documents, mlm().converter, lengths, info, rows=1, seed=(0,))
    rows = loader.Loader({0: shard})
    assert rows.counts['dropped'] == 0
    assert [(next(rows) and rows.counts['dropped']) for _ in range(3)] == [0, 2, 3]
