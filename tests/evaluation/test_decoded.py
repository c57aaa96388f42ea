"""DecodeEval: what was learned is written, every example once, by the metrics of the task."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import jax
import labelled
import numpy as np
import pytest
import seqio
import tensorflow as tf
import test_step

from t5x_lite import sharding
from t5x_lite.data.text_to_text_task import text_to_text_task
from t5x_lite.errors import ConfigError
from t5x_lite.evaluation.decoded import DecodeEval
from t5x_lite.evaluation.overlap import rouge_1
from t5x_lite.objectives.supervised import lm, seq2seq

PAIRS = {'one': 'un', 'two': 'deux', 'three': 'trois', 'four': 'quatre', 'five': 'cinq', ' ': ''}
SEEN = []


def right(predictions, targets) -> float:
    SEEN.append(list(predictions))
    return sum(p == t for p, t in zip(predictions, targets, strict=True)) / len(predictions)


def register(name, **fields):
    texts = {'inputs': list(PAIRS), 'targets': list(PAIRS.values())}
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(texts),
        splits=['train', 'validation'],
    )
    if name not in seqio.TaskRegistry.names():
        vocabulary = seqio.ByteVocabulary(extra_ids=0)
        text_to_text_task(name, source, lambda x: x, vocabulary=vocabulary, **fields)


def experiment(mixture='numbers_for_a_test', **evaluator):
    run = labelled.experiment(
        seq2seq(), {'inputs': 8, 'targets': 8}, batch_size=4, model=dict(vocab=259)
    )
    stream = dataclasses.replace(run.streams['s'], mixture=mixture)
    evals = {'texts': DecodeEval(**dict(every=10, length=8) | evaluator)}
    return dataclasses.replace(run, streams={'s': stream}, evals=evals)


def scores(run, params, devices=1):
    mesh = sharding.make_mesh(run.mesh, jax.devices()[:devices])
    SEEN.clear()
    return dict(run.evals['texts'].open(run, mesh)(params))


def test_what_was_learned_is_written_whatever_batch_and_mesh():
    register('numbers_for_a_test', metrics=(right,))
    run = experiment(metrics=(rouge_1,))
    vocabulary = seqio.ByteVocabulary(extra_ids=0)
    ids = lambda text: np.array(vocabulary.encode(text), np.int32)
    examples = [{'inputs': ids(a), 'targets': ids(b)} for a, b in PAIRS.items() if b]
    whole = dataclasses.replace(run.streams['s'], batch_size=8)
    batch = labelled.batch_of(dataclasses.replace(run, streams={'s': whole}), examples)
    _, state = test_step.run(run, [{'s': batch}] * 80)
    params = jax.device_get(state.params)
    # The last pair has no target and no row: nothing is written for it, which is right.
    assert scores(run, params) == {'s/right': 1.0, 's/rouge_1': pytest.approx(5 / 6)}
    assert SEEN == [list(PAIRS.values())]
    eight = dataclasses.replace(run, streams={'s': whole})
    assert scores(eight, params, devices=8)['s/right'] == 1.0
    few = dataclasses.replace(run, evals={'texts': DecodeEval(length=8, count=3)})
    assert scores(few, params) == {'s/right': 1.0} and len(SEEN[0]) == 3


def test_a_task_without_metrics_says_how_to_give_some():
    register('bare_for_a_test')
    run = experiment('bare_for_a_test')
    with pytest.raises(ConfigError, match='has no metric_fns.*overlap.rouge_l'):
        scores(run, None)


def test_streams_that_do_not_write_are_refused():
    with pytest.raises(ConfigError, match=r'none of s is of seq2seq\(\)'):
        labelled.experiment(lm(), {'inputs': 8, 'targets': 8}, evals={'d': DecodeEval()})
    with pytest.raises(ConfigError, match="stream 't' that is not there"):
        experiment(streams=('t',))
    with pytest.raises(ConfigError, match='length=0 must be an integer of 1 or more'):
        experiment(length=0)
