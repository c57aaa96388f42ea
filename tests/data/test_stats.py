"""Numbers of data, exact on documents that are known: lengths, duplicates, unknowns, truncation."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json

import fixtures
import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite import paint_html
from t5x_lite.data import measure, vocabularies
from t5x_lite.data.packing import Chunks, Concatenate
from t5x_lite.data.stats import Histogram
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Experiment, Stream
from t5x_lite.model.config import ModelConfig
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.objectives.mlm import mlm
from t5x_lite.objectives.packed import packed
from t5x_lite.objectives.remembered_teacher import remembered_teacher
from t5x_lite.objectives.span_corruption import span_corruption
from t5x_lite.optim import AdamW
from t5x_lite.paint_text import Painter

FIRST = ['a', 'bb', 'a', 'cccc', 'a', 'é', 'ddddddddd', 'e' * 20]  # é is 2 of ByT5's ids
SECOND = ['x' * 7, 'y' * 8]
BYTES = seqio.ByteVocabulary(extra_ids=32)


def add_task(name: str, texts, *steps):
    read = lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(
        {'targets': list(texts)}
    )
    seqio.TaskRegistry.add(
        name,
        seqio.FunctionDataSource(read, splits=('train', 'validation')),
        preprocessors=[seqio.preprocessors.tokenize, *steps],
        output_features={'targets': seqio.Feature(BYTES, add_eos=False)},
        shuffle_buffer_size=4,
    )


def unknown_y(dataset):
    """Every y becomes the unknown id 2."""
    y = ord('y') + 3
    return dataset.map(lambda x: {'targets': tf.where(x['targets'] == y, 2, x['targets'])})


def scored_by_a_teacher(dataset):
    """Two best ids of each target and of EOS, and their logits."""
    shape = lambda x: (tf.size(x['targets']) + 1, 2)
    scores = lambda x: {
        'targets': x['targets'],
        'teacher_ids': tf.ones(shape(x), tf.int32),
        'teacher_logits': tf.zeros(shape(x)),
    }
    return dataset.map(scores)


def add_scored(name: str):
    plain, every = seqio.TaskRegistry.get('first'), seqio.PassThroughVocabulary(512)
    seqio.TaskRegistry.add(
        name,
        plain.source,
        preprocessors=[*plain.preprocessors, scored_by_a_teacher],
        output_features={
            **plain.output_features,
            'teacher_ids': seqio.Feature(every, add_eos=False, rank=2),
            'teacher_logits': seqio.Feature(every, add_eos=False, rank=2, dtype=tf.float32),
        },
    )


@pytest.fixture(scope='module', autouse=True)
def tasks():
    add_task('first', FIRST)
    add_scored('scored')
    add_task('second', SECOND, unknown_y)
    seqio.MixtureRegistry.add('both', [('first', 3), ('second', 1)])
    yield
    seqio.MixtureRegistry.remove('both')
    for name in ('first', 'second', 'scored'):
        seqio.TaskRegistry.remove(name)


@pytest.fixture(scope='module')
def both():
    return measure.of_mixture('both', 'train', seed=0, documents=100)


def test_lengths_duplicates_and_unknown_tokens_are_exact(both):
    first, second = both.mixtures['both'].tasks.values()
    assert (first.documents, second.documents) == (8, 2)
    assert first.duplicates == 2 / 8  # the second and third 'a'
    assert second.duplicates == 0
    lengths = first.features['targets']
    assert (lengths.tokens, lengths.shortest, lengths.longest) == (40, 1, 20)
    assert (lengths.median, lengths.mean) == (2.0, 5.0)
    assert (lengths.unknown, lengths.bytes_per_token) == (0.0, 1.0)
    assert second.features['targets'].unknown == 8 / 15
    assert lengths.histogram == Histogram((1, 2, 4, 8, 16, 32), (3, 2, 1, 1, 1))
    assert lengths.histogram.labels() == ['1', '2-3', '4-7', '8-15', '16-31']


def test_only_so_many_documents_are_looked_at():
    stats = measure.of_mixture('first', 'train', seed=0, documents=3)
    assert stats.mixtures['first'].tasks['first'].documents == 3


def test_shares_of_a_mixture_by_its_rates(both):
    assert both.mixtures['both'].rates == {'first': 0.75, 'second': 0.25}
    assert measure.shares({'a': lambda step: 3.0 + step, 'b': 1}) == {'a': 0.75, 'b': 0.25}


def test_shares_of_a_stream_are_those_that_its_loader_drew():
    mixed = experiment(clm=(causal_lm(), {'targets': 8}))
    stream = dataclasses.replace(
        mixed.streams['clm'], mixture='both', rates={'first': 0, 'second': 2}
    )
    mixed = dataclasses.replace(mixed, streams={'clm': stream})
    found = measure.of_experiment(mixed, 'train', documents=9, batches=3).streams['clm']
    assert found.rates == {'first': 0.0, 'second': 1.0}
    assert found.drawn['first'] == 0 and found.drawn['second'] >= 5
    assert found.facts()['second'].startswith('100.00% of documents by its rate, 100.00% of ')


def test_documents_no_lengths_and_zero_lengths():
    assert Histogram.of(np.zeros(0, int)) == Histogram((), ())
    assert Histogram.of(np.array([0, 0, 3])).labels() == ['0', '1', '2-3']
    assert Histogram.of(np.array([0, 0, 3])).counts == (2, 0, 1)
    assert measure.lengths_of([], None).mean == 0


class Rows:
    """A converter as far as `left_out` asks."""

    def __init__(self, cutter, longest=None):
        self.cutter, self.longest = lambda lengths, vocabulary: cutter, longest


@pytest.mark.parametrize(
    'converter, share',
    [
        (Rows(Chunks(4, min_tokens=3)), (1 + 2 + 1) / 20),  # of 1, 6 and 13: 0, 4, 13 - 1 kept
        (Rows(Concatenate(4, eos=1, separate=True)), 0.0),
        (Rows(Concatenate(4, eos=1, separate=True), longest=5), (1 + 8) / 20),
        (Rows(Concatenate(100, eos=1, separate=True, min_tokens=50)), 1.0),
    ],
)
def test_tokens_in_no_row_are_exact(converter, share):
    documents = [{'targets': np.full(n, 7, np.int32)} for n in (1, 6, 13)]
    assert measure.left_out(converter, {}, fixtures.vocabulary(), documents) == pytest.approx(share)


def test_packing_leaves_nothing_out():
    documents, info = [{'targets': np.full(5, 7, np.int32)}] * 3, fixtures.vocabulary()
    converter = packed(objective=mlm()).converter
    assert measure.left_out(converter, {'targets': 6}, info, documents) == pytest.approx(3 / 15)


def experiment(**streams):
    made = {
        name: Stream(mixture='first', objective=objective, lengths=lengths, batch_size=2)
        for name, (objective, lengths) in streams.items()
    }
    model = ModelConfig(
        vocab=512, embed=32, heads=4, mlp=64, encoder_layers=1, decoder_layers=1, dropout=0.1
    )
    return Experiment(model=model, streams=made, optimizer=AdamW(learning_rate=1e-3), steps=1)


def test_batches_of_streams_are_measured():
    found = measure.of_experiment(
        experiment(
            clm=(causal_lm(), {'targets': 8}),
            span=(span_corruption(), {'inputs': 12, 'targets': 8}),
        ),
        'train',
        documents=100,
        batches=5,
    )
    assert list(found.mixtures) == ['first']
    clm, span = found.streams['clm'], found.streams['span']
    assert (clm.batches, clm.rows, clm.longer, clm.left_out) == (5, 2, 2 / 8, 0.0)
    [side] = clm.sides.values()
    assert (side.places, side.padding, side.efficiency, side.scored) == (8, 0.0, 1.0, 1.0)
    assert side.segments > 1.5
    assert list(span.sides) == ['encoder', 'decoder']
    assert span.sides['encoder'].scored is None
    assert span.sides['decoder'].scored == 1.0
    assert clm.tokens_per_cpu_second > 1000


def test_features_beside_the_text_are_read_but_are_no_tokens():
    plain = experiment(clm=(causal_lm(), {'targets': 8}))
    stream = dataclasses.replace(
        plain.streams['clm'], mixture='scored', objective=remembered_teacher(top=2)
    )
    scored = dataclasses.replace(plain, streams={'clm': stream})
    found = measure.of_experiment(scored, 'train', documents=100, batches=5)
    assert list(found.mixtures['scored'].tasks['scored'].features) == ['targets']
    assert (found.streams['clm'].longer, found.streams['clm'].left_out) == (2 / 8, None)
    assert found.streams['clm'].tokens_per_cpu_second > 1000


def test_an_evaluation_split_is_one_pass():
    found = measure.of_experiment(
        experiment(clm=(causal_lm(), {'targets': 8})), 'validation', documents=9, batches=100
    )
    assert found.streams['clm'].batches == 3  # 40 tokens and 8 EOS: 6 rows of 8, 2 a batch


def test_masked_rows_have_padding_and_few_scored_places():
    vocabulary = vocabularies.describe(vocabularies.bundled())
    assert vocabulary.mask is not None
    batches = [
        {
            'encoder_input_tokens': np.array([[3, 5, 4, 0], [3, 7, 8, 4]]),
            'encoder_segment_ids': np.array([[1, 1, 1, 0], [1, 1, 1, 1]]),
            'encoder_loss_weights': np.array([[0, 1, 0, 0], [0, 1, 0, 0.0]]),
        }
    ]
    sides, count = measure.sides_of(iter(batches))
    side = sides['encoder']
    assert (count, side.places, side.padding, side.segments) == (1, 4, 1 / 8, 1.0)
    assert side.scored == 2 / 7


def test_an_objective_that_the_task_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match='mlm'):
        measure.of_experiment(
            experiment(mlm=(mlm(), {'targets': 8})), 'train', documents=5, batches=1
        )


def test_the_numbers_are_json_and_are_drawn(both):
    assert (
        json.loads(json.dumps(both.as_json()))['mixtures']['both']['tasks']['first']['duplicates']
        == 0.25
    )
    lines = list(Painter(colour=False).stats(both))
    assert any(line.endswith('█' * 40 + ' 3') for line in lines)
    assert any('75.00% of documents, by its rate' in line for line in lines)
    page = paint_html.stats_page('<both>', both)
    assert '&lt;both&gt;' in page and 'class="bar" style="width:100.00%"' in page
