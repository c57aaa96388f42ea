"""Pairs and triplets of texts: rows of a batch, cutters, objectives, what they refuse."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import numpy as np
import pytest

from t5x_lite import config
from t5x_lite.data import loader
from t5x_lite.data.pairs import Aligned, text_ids
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Stream
from t5x_lite.model.heads import SentenceHead, SimilarityHead, Tower
from t5x_lite.objectives.contrastive import mlm_simcse
from t5x_lite.objectives.pairs import EncodePairs, Pairs, dual_encoder, supervised_simcse
from t5x_lite.objectives.similarity import pool_last_two, pool_mean

TRIPLET = supervised_simcse().converter
LENGTHS = {'anchor': 5, 'positive': 4, 'negative': 6}
EXAMPLES = [
    dict(anchor=[10, 11, 12, 13], positive=[14], negative=[6, 7]),
    dict(anchor=[10], positive=[15, 16], negative=[]),
    dict(anchor=[], positive=[15], negative=[10]),
    dict(anchor=[11], positive=[], negative=[10]),
    dict(anchor=[10, 11, 12], positive=[14], negative=[10, 11, 12, 13, 14, 15]),
]


def filled(converter, lengths, vocabulary, examples=EXAMPLES):
    cutter = converter.cutter(lengths, vocabulary)
    for example in examples:
        cutter.add({name: np.array(ids, np.int32) for name, ids in example.items()})
    cutter.flush()
    return cutter


def test_an_example_is_a_row_of_each_side(vocabulary):
    cutter = filled(TRIPLET, LENGTHS, vocabulary)
    assert (cutter.ready(), cutter.dropped) == (3, 2)
    out = TRIPLET.batch(cutter.take(3), LENGTHS, vocabulary, np.zeros((3, 0)))
    np.testing.assert_array_equal(
        out['left_encoder_input_tokens'], [[3, 10, 11, 12, 4], [3, 10, 4, 0, 0], [3, 10, 11, 12, 4]]
    )
    np.testing.assert_array_equal(
        out['right_encoder_input_tokens'], [[3, 14, 4, 0], [3, 15, 16, 4], [3, 14, 4, 0]]
    )
    np.testing.assert_array_equal(
        out['right_negative_encoder_input_tokens'],
        [[3, 6, 7, 4, 0, 0], [0] * 6, [3, 10, 11, 12, 13, 4]],
    )
    np.testing.assert_array_equal(
        out['right_negative_encoder_segment_ids'], [[1, 1, 1, 1, 0, 0], [0] * 6, [1] * 6]
    )
    np.testing.assert_array_equal(
        out['right_encoder_positions'], [[0, 1, 2, 0], [0, 1, 2, 3], [0, 1, 2, 0]]
    )
    found = {name: (x.shape[1:], x.dtype) for name, x in out.items()}
    assert found == TRIPLET.spec(LENGTHS)


def test_pairs_for_vocabularies_without_cls_end_with_eos(vocabulary):
    converter, lengths = Pairs(marks='eos'), {'inputs': 3, 'targets': 4}
    examples = [dict(inputs=[10, 11, 12], targets=[13]), dict(inputs=[14], targets=[6, 7, 8])]
    cutter = filled(converter, lengths, dataclasses.replace(vocabulary, cls=None), examples)
    out = converter.batch(cutter.take(2), lengths, vocabulary, np.zeros((2, 0)))
    np.testing.assert_array_equal(out['left_encoder_input_tokens'], [[10, 11, 1], [14, 1, 0]])
    np.testing.assert_array_equal(out['right_encoder_input_tokens'], [[13, 1, 0, 0], [6, 7, 8, 1]])
    np.testing.assert_array_equal(out['right_encoder_segment_ids'], [[1, 1, 0, 0], [1, 1, 1, 1]])


def test_a_texts_number_tells_texts_apart_and_knows_equal_ones(vocabulary):
    out = TRIPLET.batch(filled(TRIPLET, LENGTHS, vocabulary).take(3), LENGTHS, vocabulary, None)
    a, b, c = out['left_encoder_example_ids']
    assert a == c != b and out['left_encoder_example_ids'].dtype == np.int32
    tokens = np.unique(np.random.default_rng(0).integers(0, 8, (20_000, 6)), axis=0)
    assert len(np.unique(text_ids(tokens))) == len(tokens) > 15_000


def test_a_saved_position_goes_on_with_the_same_rows():
    def rows(cutter):
        return {name: [x.tolist() for x in part] for name, part in cutter.take(2).items()}

    def fill(cutter, numbers):
        for i in numbers:
            cutter.add({'a': np.arange(i), 'b': np.arange(i, 9)})

    first, second = Aligned({'a': 3, 'b': 2}, ['a']), Aligned({'a': 3, 'b': 2}, ['a'])
    fill(first, range(8, 11))
    first.take(1)
    second.restore(first.state())
    for cutter in (first, second):
        fill(cutter, [0])
    assert first.dropped == second.dropped == 2
    assert rows(first) == rows(second)


def test_objectives_have_the_settings_given():
    objective = supervised_simcse(hard_weight=0.5, pool=pool_mean, mlp=False, weight=2.0)
    (term,) = objective.terms.values()
    assert (term.loss.hard_weight, term.loss.pool, term.head) == (0.5, pool_mean, None)
    assert term.batchwide and term.loss.own_negatives and term.weight == 2.0
    assert objective.forward == EncodePairs(sides=3) and not objective.parts
    assert supervised_simcse().terms['supervised_simcse'].head == SentenceHead()
    two = supervised_simcse(features=('a', 'b'))
    assert two.forward.sides == 2 and not two.terms['supervised_simcse'].loss.own_negatives

    t5x = dual_encoder(margin=0.1).terms['dual_encoder']
    assert (t5x.loss.temperature, t5x.loss.directions, t5x.loss.margin) == (0.01, 'sum', 0.1)
    assert t5x.head == SimilarityHead()
    clip = dual_encoder(separate=True, temperature=0.07, learn_temperature=True, projection=8)
    head = clip.terms['dual_encoder'].head
    assert head == SimilarityHead(size=8, separate=True, temperature=0.07)
    assert clip.terms['dual_encoder'].loss.temperature is None
    assert clip.parts == {'passage_encoder': Tower()}
    assert dual_encoder(pool=pool_last_two).forward.every_layer


@pytest.mark.parametrize(
    'make, words',
    [
        (lambda: Pairs(features=('a',)), ['features=', 'two names']),
        (lambda: Pairs(features=('a', 'a')), ['features=', 'two names']),
        (lambda: Pairs(marks='sep'), ["marks='sep'", 'cls']),
        (lambda: TRIPLET.check({**LENGTHS, 'positive': 2}), ["lengths['positive']=2", '3 or more']),
        (lambda: TRIPLET.check({'anchor': 8, 'positive': 8}), ["must have 'negative'"]),
        (lambda: TRIPLET.check({**LENGTHS, 'negatives': 8}), ['nearest: negative']),
        (lambda: supervised_simcse(features=('a', 'b'), hard_weight=1.0), ['hard_weight=1.0']),
        (lambda: dual_encoder(temperature=0.001, learn_temperature=True), ['0.01 or more']),
        (lambda: dual_encoder(temperature=0.0), ['above 0']),
        (lambda: dual_encoder(directions='columns'), ["directions='columns'"]),
        (lambda: dual_encoder(projection=0), ['size=0']),
    ],
)
def test_what_cannot_work_is_refused(make, words):
    with pytest.raises(ConfigError) as error:
        make()
    assert all(word in str(error.value) for word in words), error.value


def test_a_vocabulary_without_the_marks_is_refused(vocabulary):
    without = dataclasses.replace(vocabulary, cls=None)
    with pytest.raises(ConfigError, match='no cls id'):
        TRIPLET.check(LENGTHS, without)
    TRIPLET.check(LENGTHS, vocabulary)
    dual_encoder().converter.check({'inputs': 2, 'targets': 2}, without)


@pytest.mark.parametrize(
    'name, objective, features',
    [
        ('supervised_simcse', supervised_simcse(), ('anchor', 'positive', 'negative')),
        ('dual_encoder', dual_encoder(), ('inputs', 'targets')),
        (
            'clip',
            dual_encoder(
                separate=True, temperature=0.07, learn_temperature=True, directions='mean'
            ),
            ('inputs', 'targets'),
        ),
        ('mlm_simcse', mlm_simcse(), ('targets',)),
    ],
)
def test_a_gin_file_makes_the_objective(name, objective, features, tmp_path):
    file = tmp_path / 'run.gin'
    file.write_text(f"""
from __gin__ import dynamic_registration
from t5x_lite import experiment
from t5x_lite import optim
from t5x_lite.model import presets
include 'models/encoder_mini.gin'
include 'objectives/{name}.gin'
presets.encoder_mini.dropout = 0.1
experiment.Experiment.optimizer = @optim.AdamW()
experiment.Experiment.steps = 1
optim.AdamW.learning_rate = 0.1
experiment.Stream:
    mixture = 'any'
    lengths = {dict.fromkeys(features, 8)}
    batch_size = 4
""")
    assert config.load(str(file)).experiment.streams[name].objective == objective


def test_a_seqio_task_of_three_features_becomes_batches():
    seqio = pytest.importorskip('seqio', reason='seqio is not installed: the compute side alone')
    import tensorflow as tf

    features = ('anchor', 'positive', 'negative')
    vocabulary = seqio.ByteVocabulary(extra_ids=0)
    texts = {name: [f'{name[0]}{i}' for i in range(4)] for name in features}

    def dataset(split, shuffle_files, seed=None):
        return tf.data.Dataset.from_tensor_slices(texts)

    if 'triplets_of_letters' not in seqio.TaskRegistry.names():
        seqio.TaskRegistry.add(
            'triplets_of_letters',
            source=seqio.FunctionDataSource(dataset, splits=['train']),
            preprocessors=[seqio.preprocessors.tokenize],
            output_features={name: seqio.Feature(vocabulary, add_eos=False) for name in features},
        )
    lengths = dict.fromkeys(features, 4)
    objective = dual_encoder(features=features)
    stream = Stream(
        mixture='triplets_of_letters', objective=objective, lengths=lengths, batch_size=4
    )
    rows = loader.open_stream(stream, 's', training=False)
    (batch,) = list(rows)
    rows.close()
    a, zero = vocabulary.encode('a0')
    np.testing.assert_array_equal(batch['left_encoder_input_tokens'][0], [a, zero, 1, 0])
    np.testing.assert_array_equal(batch['right_encoder_segment_ids'], [[1, 1, 1, 0]] * 4)
    other = dual_encoder(features=('anchor', 'answer'))
    wrong = Stream(
        mixture='triplets_of_letters',
        objective=other,
        lengths={'anchor': 4, 'answer': 4},
        batch_size=4,
    )
    with pytest.raises(ConfigError, match="no feature 'answer'.*it has anchor"):
        loader.open_stream(wrong, 's', training=False)
