"""What a seqio task of labelled texts needs: texts become tokens, a name of a class its number."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

from t5x_lite.data import vocabularies

SHUFFLED = 20_000  # examples among which the next is drawn: many sets are in the order of labels


def labelled_task(
    name: str,
    source: seqio.DataSource,
    texts: Mapping[str, str],
    *,
    label: str = 'label',
    classes: Sequence[str] | None = None,
    numbers: bool = False,
    vocabulary: seqio.Vocabulary | None = None,
    prepare: Callable[[tf.data.Dataset], tf.data.Dataset] | None = None,
) -> seqio.Task:
    """Registers a task for `classification()` or `regression()`: tokens of texts, and `label` [].

    No EOS is added: the objective's converter does that.

    Args:
      texts: our feature to the source's, such as {'inputs': 'premise', 'inputs_2': 'hypothesis'}.
      label: the source's feature.
      classes: what the source calls the classes, if it does not number them.
      numbers: labels are any numbers, not classes.
      vocabulary: the bundled one if None.
      prepare: a step before all others.
    """
    keys = dict(texts) | {'label': label}
    steps = [] if prepare is None else [prepare]
    steps += [functools.partial(seqio.preprocessors.rekey, key_map=keys)]
    if classes is not None:
        steps += [functools.partial(_number, classes=tuple(classes), task=name)]
    dtype = tf.float32 if numbers else tf.int32
    steps += [
        functools.partial(_as_type, dtype=dtype),
        seqio.CacheDatasetPlaceholder(),
        functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False),
    ]
    own = vocabulary or vocabularies.bundled()
    # PassThroughVocabulary wants a size; what labels there may be is the objective's to check.
    mark = seqio.Feature(seqio.PassThroughVocabulary(2**31 - 1), add_eos=False, dtype=dtype, rank=0)
    features = {text: seqio.Feature(own, add_eos=False) for text in texts} | {'label': mark}
    return seqio.TaskRegistry.add(
        name,
        source,
        preprocessors=steps,
        output_features=features,
        shuffle_buffer_size=SHUFFLED,
    )


def _as_type(dataset: tf.data.Dataset, dtype: tf.DType) -> tf.data.Dataset:
    return dataset.map(lambda example: {**example, 'label': tf.cast(example['label'], dtype)})


def _number(dataset: tf.data.Dataset, classes: tuple[str, ...], task: str) -> tf.data.Dataset:
    """The number of each example's class; an error that names one that is not known."""

    def number(example):
        same_C = tf.constant(classes) == example['label']
        known = tf.debugging.Assert(
            tf.reduce_any(same_C), [f'task {task}: no such class:', example['label']]
        )
        with tf.control_dependencies([known]):
            return {**example, 'label': tf.argmax(same_C, output_type=tf.int32)}

    return dataset.map(number)
