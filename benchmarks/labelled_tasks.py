"""Tasks `banking77` and `wnut17` from a folder of JSON lines, `$T5X_LITE_LABELLED`, for benchmarks.

    T5X_LITE_LABELLED=FOLDER t5x-lite train CONFIG --run DIR --import benchmarks.labelled_tasks

The folder holds `banking77/` (train and test; fields `text` and `label`; CC BY 4.0, Casanueva et
al. 2020) and `wnut17/` (train, valid and test; `tokens` and `tags`, each apart by single spaces;
CC BY 4.0, Derczynski et al. 2017). Neither is shipped. What is missing is said when it is read.
"""
# SPDX-License-Identifier: Apache-2.0

import functools
import json
import os
from pathlib import Path

import seqio
import tensorflow as tf

from t5x_lite.data.labelled_task import labelled_task
from t5x_lite.data.tagged_task import tagged_task
from t5x_lite.errors import ConfigError

FOLDER = 'T5X_LITE_LABELLED'
KINDS = ('corporation', 'creative-work', 'group', 'location', 'person', 'product')
TAGS = ('O', *(f'{mark}-{kind}' for kind in KINDS for mark in 'BI'))


def lines(task: str, split: str) -> list[dict[str, str]]:
    """The examples of a split; ConfigError if the folder is not named or has it not."""
    if FOLDER not in os.environ:
        raise ConfigError(f'{task}: ${FOLDER} must name the folder that holds {task}/')
    path = Path(os.environ[FOLDER]) / task / f'{split}.jsonl'
    if not path.exists():
        raise ConfigError(f'{task}: {path} is not there; set ${FOLDER} to the folder of {task}/')
    return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def intents() -> list[str]:
    """The labels of banking77's training split, sorted: a class is a place in it."""
    return sorted({example['label'] for example in lines('banking77', 'train')})


def _banking77(split: str, shuffle_files: bool, seed=None) -> tf.data.Dataset:
    places = {label: i for i, label in enumerate(intents())}
    examples = lines('banking77', split)
    columns = {'text': [e['text'] for e in examples]}
    return tf.data.Dataset.from_tensor_slices(
        columns | {'label': [places[e['label']] for e in examples]}
    )


def _wnut17(split: str, shuffle_files: bool, seed=None) -> tf.data.Dataset:
    examples = lines('wnut17', 'valid' if split == 'validation' else split)
    columns = {name: [e[name] for e in examples] for name in ('tokens', 'tags')}
    apart = lambda e: {name: tf.strings.split(text, ' ') for name, text in e.items()}
    return tf.data.Dataset.from_tensor_slices(columns).map(apart)


_source = functools.partial(seqio.FunctionDataSource, caching_permitted=True)
BANKING77 = _source(_banking77, splits=['train', 'test'])
WNUT17 = _source(_wnut17, splits=['train', 'validation', 'test'])
labelled_task('banking77', BANKING77, {'inputs': 'text'})
tagged_task('wnut17', WNUT17, tags=TAGS)
