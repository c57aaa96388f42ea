"""Tasks `squad`, `squad_2` of spans and `squad_text` of text to text, from a TFDS folder."""
# SPDX-License-Identifier: Apache-2.0
# Rajpurkar et al. 2016, 2018. `span_qa()`, for `squad_2` with `unanswerable=True`; `seq2seq()`.

import functools

import numpy as np
import seqio
import tensorflow as tf

from t5x_lite.data import vocabularies
from t5x_lite.data.answer_places import locate
from t5x_lite.data.text_task import PreparedTfds
from t5x_lite.data.text_to_text_task import text_to_text_task
from t5x_lite.evaluation.answers import answer_f1, exact_match

SPLITS = {'train': 'train', 'validation': 'validation'}
VERSION_1, VERSION_2 = 'squad/v1.1:3.0.0', 'squad/v2.0:3.0.0'


def span_task(name: str, source: seqio.DataSource, vocabulary: seqio.Vocabulary | None = None):
    """Registers a task for `span_qa()`: `question`, `context`, and `answers` as its tokens.

    A question is left out if it has answers and none is found in the context's tokens: that may be
    with vocabularies that do not keep the text as it is.
    """
    own = vocabulary or vocabularies.bundled()
    ids = seqio.Feature(own, add_eos=False)
    places = seqio.Feature(seqio.PassThroughVocabulary(2**31 - 1), add_eos=False)
    return seqio.TaskRegistry.add(
        name,
        source,
        preprocessors=[functools.partial(_spans, vocabulary=own), seqio.CacheDatasetPlaceholder()],
        output_features={'answers': places, 'question': ids, 'context': ids},
    )


def _spans(dataset: tf.data.Dataset, vocabulary: seqio.Vocabulary) -> tf.data.Dataset:
    def annotate(example):
        context, given = vocabulary.encode_tf(example['context']), example['answers']
        arguments = [example['context'], context, given['answer_start'], given['text']]
        find = functools.partial(token_spans, info=vocabularies.describe(vocabulary))
        found = tf.numpy_function(find, arguments, tf.int32, stateful=False)
        return {
            'question': vocabulary.encode_tf(example['question']),
            'context': context,
            'answers': tf.ensure_shape(found, [None]),
            'given': tf.size(given['text']),
        }

    known = lambda example: (example['given'] == 0) | (tf.size(example['answers']) > 0)
    return dataset.map(annotate, num_parallel_calls=tf.data.AUTOTUNE).filter(known)


def token_spans(context: bytes, tokens: np.ndarray, starts, answers, info) -> np.ndarray:
    """Tokens [first, last) of every answer that is found, one after the other, int32 [2k]."""
    text, found = context.decode(), []
    for start, answer in zip(starts.tolist(), answers.tolist(), strict=True):
        found += locate(text, tokens, info, start, start + len(answer.decode())) or ()
    return np.array(found, np.int32)


def _asked(dataset: tf.data.Dataset) -> tf.data.Dataset:
    def pair(example):
        parts = ['question:', example['question'], 'context:', example['context']]
        answers = example['answers']['text']
        return {'inputs': tf.strings.join(parts, ' '), 'targets': answers[0], 'answers': answers}

    return dataset.map(pair, num_parallel_calls=tf.data.AUTOTUNE)


def all_answers(text: str, example, is_target: bool):
    """What is compared: the text written, with all answers that are right."""
    return [answer.decode() for answer in example['answers']] if is_target else text


span_task('squad', PreparedTfds(VERSION_1, splits=SPLITS))
span_task('squad_2', PreparedTfds(VERSION_2, splits=SPLITS))
text_to_text_task(
    'squad_text',
    PreparedTfds(VERSION_1, splits=SPLITS),
    _asked,
    metrics=(exact_match, answer_f1),
    postprocess=all_answers,
)
