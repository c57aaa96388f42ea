"""PredictEval: all rows of a held-out split once, and scores of them as a whole."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import jax
import labelled
import numpy as np
import pytest
import seqio

from t5x_lite import sharding, step
from t5x_lite.data import corpora
from t5x_lite.data.tasks import wiki_topics_labels
from t5x_lite.errors import ConfigError
from t5x_lite.evaluate import LossEval
from t5x_lite.evaluation.classes import accuracy, f1_macro
from t5x_lite.evaluation.predict import PredictEval, collect
from t5x_lite.experiment import Checkpoints
from t5x_lite.objectives.classification import classification

IMPORTS = ('t5x_lite.data.tasks.wiki_topics_labels',)


@pytest.fixture(scope='module', autouse=True)
def data_dir(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('T5X_LITE_DATA_DIR', str(tmp_path_factory.mktemp('topics')))
        yield


def test_every_article_has_the_number_of_its_topic():
    dataset = seqio.get_mixture_or_task('wiki_topics').get_dataset(None, 'test', shuffle=False)
    path = corpora.split_path('test', corpora.WIKI_TOPICS)
    topics = {article['text']: article['label'] for article in corpora.documents(path)}
    assert len(wiki_topics_labels.TOPICS) == 11 and len(topics) == 400
    vocabulary = dataset_vocabulary('inputs')
    for example in dataset.as_numpy_iterator():
        text = vocabulary.decode(example['inputs'].tolist())
        assert wiki_topics_labels.TOPICS[example['label']] == topics.pop(text)
    assert not topics


def dataset_vocabulary(feature):
    return seqio.get_mixture_or_task('wiki_topics').output_features[feature].vocabulary


def test_places_without_a_weight_are_left_out():
    rows = {
        'predictions': np.array([[1, 2], [3, 4]]),
        'targets': np.array([[1, 0], [0, 4]]),
        'weights': np.array([[1, 0], [0, 1]]),
    }
    found, true = collect(rows, None)
    assert found.tolist() == [1, 4] and true.tolist() == [1, 4]


@pytest.mark.all
def test_scores_are_those_of_every_row_once_on_any_mesh_whatever_the_batch():
    """400 articles in batches of 48 (the last has 16) on 8 devices, and of 400 on one."""
    run = labelled.experiment(
        classification(labels=11), {'inputs': 16}, batch_size=48, model=dict(vocab=8192)
    )
    stream = dataclasses.replace(run.streams['s'], mixture='wiki_topics')
    evals = {
        'loss': LossEval(every=10),
        'scores': PredictEval(every=10, metrics=(accuracy, f1_macro, count)),
    }
    found = []
    for size, devices in ((48, 8), (400, 1)):
        one = dataclasses.replace(
            run,
            streams={'s': dataclasses.replace(stream, batch_size=size)},
            evals=evals,
            imports=IMPORTS,
            checkpoint=Checkpoints(every=10, best='eval/s/accuracy', highest=True),
        )
        mesh = sharding.make_mesh(one.mesh, jax.devices()[:devices])
        params = step.make_init(one, mesh)().params
        losses, scores = (dict(e.open(one, mesh)(params)) for e in one.evals.values())
        assert scores['s/count'] == 400
        assert scores['s/accuracy'] == pytest.approx(losses['s/accuracy'])
        found.append(scores)
    assert found[0] == found[1]


def count(predictions, targets) -> float:
    return float(len(predictions))


def test_a_stream_by_stream_choice_of_metrics_names_streams():
    build = lambda metrics: labelled.experiment(
        classification(labels=2), {'inputs': 8}, evals={'p': PredictEval(metrics=metrics)}
    )
    assert build({'s': (accuracy,)}).evals['p'].metrics == {'s': (accuracy,)}
    with pytest.raises(ConfigError, match="stream 'z' that is not there"):
        build({'z': (accuracy,)})
