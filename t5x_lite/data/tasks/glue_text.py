"""Tasks `glue_cola_text`, ..: GLUE as text to text, as T5 was trained on it, from a TFDS folder."""
# SPDX-License-Identifier: Apache-2.0
# Raffel et al. 2020, appendix D; google-research/text-to-text-transfer-transformer. `seq2seq()`
# with `DecodeEval`; the mixture is by numbers of examples, without WNLI.

import seqio
import tensorflow as tf

from t5x_lite.data.tasks.glue import MNLI_SPLITS, SPLITS
from t5x_lite.data.text_task import PreparedTfds
from t5x_lite.data.text_to_text_task import class_of, described, named, text_to_text_task
from t5x_lite.evaluation.classes import accuracy, f1_binary, matthews, pearson, spearman

ENTAILS = ('entailment', 'not_entailment')
SENTENCES = ('sentence1', 'sentence2')
CLASSES = {
    'cola': (('sentence',), ('unacceptable', 'acceptable'), (matthews,)),
    'sst2': (('sentence',), ('negative', 'positive'), (accuracy,)),
    'mrpc': (SENTENCES, ('not_equivalent', 'equivalent'), (f1_binary, accuracy)),
    'qqp': (('question1', 'question2'), ('not_duplicate', 'duplicate'), (f1_binary, accuracy)),
    'mnli': (
        ('hypothesis', 'premise'),
        ('entailment', 'neutral', 'contradiction'),
        (accuracy,),
    ),
    'qnli': (('question', 'sentence'), ENTAILS, (accuracy,)),
    'rte': (SENTENCES, ENTAILS, (accuracy,)),
    'wnli': (SENTENCES, ENTAILS[::-1], (accuracy,)),
}
RATES = {
    'cola': 8_551,
    'sst2': 67_349,
    'mrpc': 3_668,
    'qqp': 363_849,
    'stsb': 5_749,
    'mnli': 392_702,
    'qnli': 104_743,
    'rte': 2_490,
}


def _source(name: str) -> PreparedTfds:
    splits = MNLI_SPLITS if name == 'mnli' else SPLITS
    return PreparedTfds(f'glue/{name}:2.0.0', splits=splits)


def _similarity(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Scores from 0 to 5 as text, in steps of 0.2."""

    def pair(example):
        rounded = tf.as_string(tf.round(example['label'] * 5) / 5, precision=1)
        texts = {name: example[name] for name in SENTENCES}
        return {'inputs': described('stsb', texts), 'targets': rounded}

    return dataset.map(pair, num_parallel_calls=tf.data.AUTOTUNE)


def number_of(text: str, example=None, is_target: bool = False) -> float:
    """The number that is written, -1 if it is none."""
    try:
        return float(text)
    except ValueError:
        return -1.0


for name, (texts, classes, metrics) in CLASSES.items():
    text_to_text_task(
        f'glue_{name}_text',
        _source(name),
        named(name, texts, classes),
        metrics=metrics,
        postprocess=class_of(classes),
    )
text_to_text_task(
    'glue_stsb_text',
    _source('stsb'),
    _similarity,
    metrics=(pearson, spearman),
    postprocess=number_of,
)
seqio.MixtureRegistry.add('glue_text', [(f'glue_{n}_text', rate) for n, rate in RATES.items()])
