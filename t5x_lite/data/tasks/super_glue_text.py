"""Tasks `super_glue_boolq_text`, ..: SuperGLUE as text to text, as T5 has it, from TFDS."""
# SPDX-License-Identifier: Apache-2.0
# Raffel et al. 2020, appendix D; google-research/text-to-text-transfer-transformer. Of WSC only
# examples whose noun is meant are trained on. `seq2seq()` with `DecodeEval`.

from collections import defaultdict

import numpy as np
import seqio
import tensorflow as tf

from t5x_lite.data.tasks.super_glue import SPLITS
from t5x_lite.data.text_task import PreparedTfds
from t5x_lite.data.text_to_text_task import class_of, described, named, text_to_text_task
from t5x_lite.evaluation import answers
from t5x_lite.evaluation.classes import accuracy, f1_binary

TRUTH = ('False', 'True')
CB = ('entailment', 'contradiction', 'neutral')
CLASSES = {
    'boolq': (('passage', 'question'), TRUTH),
    'cb': (('hypothesis', 'premise'), CB),
    'copa': (('choice1', 'choice2', 'premise', 'question'), ('choice1', 'choice2')),
    'rte': (('hypothesis', 'premise'), ('entailment', 'not_entailment')),
    'wic': (('sentence1', 'sentence2', 'word'), TRUTH),
}
RATES = {
    'boolq': 9_427,
    'cb': 250,
    'copa': 400,
    'multirc': 27_243,
    'record': 138_854,
    'rte': 2_490,
    'wic': 5_428,
    'wsc': 259,
}
DETERMINERS = frozenset(
    'a an few her his each every many much my our some that the their these this those which whose '
    'your'.split()
)


def _source(name: str) -> PreparedTfds:
    return PreparedTfds(f'super_glue/{name}:1.0.2', splits=SPLITS)


def _answers(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """MultiRC, without its HTML; which question it is stays beside the text."""

    def pair(example):
        names = ('question', 'answer', 'paragraph')
        text = described('multirc', {name: example[name] for name in names})
        text = tf.strings.regex_replace(text, '<br>', ' ')
        return {
            'inputs': tf.strings.regex_replace(text, '</?b>', ''),
            'targets': tf.constant(TRUTH)[tf.cast(example['label'], tf.int32)],
            'asked': tf.stack([example['idx'][name] for name in ('paragraph', 'question')]),
        }

    return dataset.map(pair, num_parallel_calls=tf.data.AUTOTUNE)


def of_question(text: str, example=None, is_target: bool = False):
    """The class; of a target (class, which question)."""
    number = class_of(TRUTH)(text)
    return (number, tuple(example['asked'].tolist())) if is_target else number


def f1_of_answers(predictions, targets) -> float:
    """F1 of the answers that are true, all questions together (MultiRC's F1a)."""
    return f1_binary(predictions, [number for number, _ in targets])


def questions_right(predictions, targets) -> float:
    """The share of questions all of whose answers are judged rightly (MultiRC's EM)."""
    right = defaultdict(lambda: True)
    for prediction, (number, question) in zip(predictions, targets, strict=True):
        right[question] &= prediction == number
    return float(np.mean(list(right.values())))


def _queries(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """ReCoRD, an example for each answer of a query."""

    def pairs(example):
        passage = example['passage']
        passage = tf.strings.regex_replace(passage, r'([.?!"\'])\n@highlight\n', r'\1 ')
        texts = {
            'query': example['query'],
            'entities': tf.strings.reduce_join(example['entities'], separator=', '),
            'passage': tf.strings.regex_replace(passage, r'\n@highlight\n', '. '),
        }
        found = tf.data.Dataset.from_tensor_slices({'targets': example['answers']})
        asked = tf.stack([example['idx'][name] for name in ('passage', 'query')])
        same = {'answers': example['answers'], 'asked': asked}
        return found.map(lambda e: {'inputs': described('record', texts), **e, **same})

    return dataset.flat_map(pairs)


def of_query(text: str, example=None, is_target: bool = False):
    """What is written; of a target (all answers, which query)."""
    if not is_target:
        return text
    return [answer.decode() for answer in example['answers']], tuple(example['asked'].tolist())


def _once(score):
    """A metric of answers in which each query counts once, however many answers it has."""

    def metric(predictions, targets) -> float:
        first = {query: (p, all_) for p, (all_, query) in zip(predictions, targets, strict=True)}
        return score(*zip(*first.values(), strict=True))

    metric.__name__ = score.__name__
    return metric


def _pronouns(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """WSC: the text with its pronoun in stars, and the noun that is meant, or perhaps is.

    The pronoun is the first one from the place on that the data names, which is at times too low.
    """

    def pair(example):
        words, pronoun = tf.strings.split(example['text'], ' '), example['span2_text']
        begins = tf.strings.substr(words, 0, tf.strings.length(pronoun)) == pronoun
        later = tf.range(tf.size(words)) >= tf.cast(example['span2_index'], tf.int32)
        place = tf.where(begins & later)[0, 0]
        rest = tf.strings.substr(words[place], tf.strings.length(pronoun), 1_000)
        marked = tf.strings.join(['*', pronoun, '*', rest])
        words = tf.concat([['wsc:'], words[:place], [marked], words[place + 1 :]], 0)
        return {
            'inputs': tf.strings.reduce_join(words, separator=' '),
            'targets': example['span1_text'],
            'meant': tf.cast(example['label'], tf.int32),
        }

    return dataset.map(pair, num_parallel_calls=tf.data.AUTOTUNE)


def _meant(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return _pronouns(dataset.filter(lambda example: tf.cast(example['label'], tf.bool)))


def is_noun(text: str, example=None, is_target: bool = False) -> int:
    """Whether what is written is the noun of the example; of a target, whether that is meant."""
    if is_target:
        return int(example['meant'])
    found, noun = (_content(t) for t in (text, example['targets_pretokenized'].decode()))
    if not found:
        return -1
    same = found <= noun or noun <= found
    return int(same and any("'" in w for w in found) == any("'" in w for w in noun))


def _content(text: str) -> set[str]:
    """A text's words in small letters, without determiners."""
    return {*text.strip().lower().split()} - DETERMINERS


def f1_of_classes(predictions, targets) -> float:
    """The mean F1 of CB's three classes; what is none of them is a miss, and no class."""
    true = np.asarray(targets)
    own = [f1_binary(np.asarray(predictions) == c, true == c) for c in range(len(CB))]
    return float(np.mean(own))


for name, (texts, classes) in CLASSES.items():
    text_to_text_task(
        f'super_glue_{name}_text',
        _source(name),
        named(name, texts, classes),
        metrics=(f1_of_classes, accuracy) if name == 'cb' else (accuracy,),
        postprocess=class_of(classes),
    )
text_to_text_task(
    'super_glue_multirc_text',
    _source('multirc'),
    _answers,
    metrics=(f1_of_answers, questions_right),
    postprocess=of_question,
)
text_to_text_task(
    'super_glue_record_text',
    _source('record'),
    _queries,
    metrics=tuple(_once(score) for score in (answers.exact_match, answers.answer_f1)),
    postprocess=of_query,
)
WSC = 'super_glue/wsc.fixed:1.0.2'
text_to_text_task(
    'super_glue_wsc_text',
    PreparedTfds(WSC, splits={'train': 'train'}),
    _meant,
)
text_to_text_task(
    'super_glue_wsc_judged_text',
    PreparedTfds(WSC, splits={'validation': 'validation'}),
    _pronouns,
    metrics=(accuracy,),
    postprocess=is_noun,
)
seqio.MixtureRegistry.add(
    'super_glue_text', [(f'super_glue_{n}_text', rate) for n, rate in RATES.items()]
)
