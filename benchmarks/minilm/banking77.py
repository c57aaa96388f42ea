"""Which of 77 intents a question to a bank has."""
# SPDX-License-Identifier: Apache-2.0

from benchmarks.minilm.weights import fine_tuned
from t5x_lite.model.heads import ClassifierHead
from t5x_lite.objectives.classification import classification
from t5x_lite.objectives.similarity import pool_mean

experiment = fine_tuned(
    'minilm_banking77',
    classification(labels=77, pool=pool_mean, head=ClassifierHead(labels=77, activation=None)),
    length=32,
    steps=1200,
    split='test',
)
