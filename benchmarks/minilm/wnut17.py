"""Persons, places and other names in social media, as tags of words."""
# SPDX-License-Identifier: Apache-2.0

from benchmarks.labelled_tasks import TAGS
from benchmarks.minilm.weights import fine_tuned
from t5x_lite.objectives.tagging import tagging

experiment = fine_tuned(
    'minilm_wnut17',
    tagging(tags=TAGS),
    length=48,
    steps=450,
    split='validation',
)
