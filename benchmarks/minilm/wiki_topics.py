"""Which of 11 topics a lead of Wikipedia has."""
# SPDX-License-Identifier: Apache-2.0

from benchmarks.minilm.weights import fine_tuned
from t5x_lite.model.heads import ClassifierHead
from t5x_lite.objectives.classification import classification
from t5x_lite.objectives.similarity import pool_mean

experiment = fine_tuned(
    'minilm_wiki_topics',
    classification(labels=11, pool=pool_mean, head=ClassifierHead(labels=11, activation=None)),
    length=96,
    steps=240,
    split='validation',
)
