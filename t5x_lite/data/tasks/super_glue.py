"""Tasks `super_glue_boolq`, ..: SuperGLUE as labelled texts and choices, from a TFDS folder."""
# SPDX-License-Identifier: Apache-2.0
# Wang et al. 2019. COPA is for `multiple_choice(choices=2)`, the others for `classification()` with
# `texts=('inputs', 'inputs_2')`; CB has 3 labels, the others 2. ReCoRD is in super_glue_text.py
# alone. The test splits hide their labels: they are left out.

import functools

import tensorflow as tf

from t5x_lite.data.labelled_task import labelled_task
from t5x_lite.data.text_task import PreparedTfds

SPLITS = {'train': 'train', 'validation': 'validation'}
ASKS = ('What was the cause of this?', 'What happened as a result?')
PAIR = {'inputs': 'inputs', 'inputs_2': 'inputs_2'}


def _boolq(example):
    return {'inputs': example['question'], 'inputs_2': example['passage']}


def _nli(example):
    return {'inputs': example['premise'], 'inputs_2': example['hypothesis']}


def _wic(example):
    first = tf.strings.join([example['word'], example['sentence1']], ': ')
    return {'inputs': first, 'inputs_2': example['sentence2']}


def _wsc(example):
    both = tf.strings.join([example['span2_text'], example['span1_text']], ' = ')
    return {'inputs': example['text'], 'inputs_2': both}


def _multirc(example):
    asked = tf.strings.join([example['question'], example['answer']], ' ')
    return {'inputs': asked, 'inputs_2': example['paragraph']}


def _copa(example):
    cause = example['question'] == 'cause'
    asked = tf.where(cause, ASKS[0], ASKS[1])
    return {
        'inputs': tf.strings.join([example['premise'], asked], ' '),
        'choice_0': example['choice1'],
        'choice_1': example['choice2'],
    }


def _made(dataset: tf.data.Dataset, texts) -> tf.data.Dataset:
    return dataset.map(lambda example: {**texts(example), 'label': example['label']})


TEXTS = {
    'boolq': (_boolq, PAIR),
    'cb': (_nli, PAIR),
    'rte': (_nli, PAIR),
    'wic': (_wic, PAIR),
    'wsc.fixed': (_wsc, PAIR),
    'multirc': (_multirc, PAIR),
    'copa': (_copa, {name: name for name in ('inputs', 'choice_0', 'choice_1')}),
}

for name, (texts, features) in TEXTS.items():
    labelled_task(
        f'super_glue_{name.removesuffix(".fixed")}',
        PreparedTfds(f'super_glue/{name}:1.0.2', splits=SPLITS),
        features,
        prepare=functools.partial(_made, texts=texts),
    )
