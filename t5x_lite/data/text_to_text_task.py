"""What a seqio task of inputs and targets needs: both as tokens, and metrics of what is written."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Callable, Sequence

import seqio
import tensorflow as tf

from t5x_lite.data import vocabularies


def text_to_text_task(
    name: str,
    source: seqio.DataSource,
    prepare: Callable[[tf.data.Dataset], tf.data.Dataset],
    *,
    metrics: Sequence[Callable[..., float]] = (),
    postprocess: Callable | None = None,
    vocabulary: seqio.Vocabulary | None = None,
) -> seqio.Task:
    """Registers a task for `seq2seq()` or `lm()`.

    No EOS is added: the objective's converter does that. Both texts are kept beside their tokens,
    as `inputs_pretokenized` and `targets_pretokenized`.

    Args:
      prepare: the source's examples to texts `inputs` and `targets`, and what else is to be kept.
      metrics: functions (predictions, targets) -> number, such as those of evaluation/overlap.py.
      postprocess: as of seqio, (text, example, is_target) -> what metrics compare.
      vocabulary: the bundled one if None.
    """
    own = vocabulary or vocabularies.bundled()
    return seqio.TaskRegistry.add(
        name,
        source,
        preprocessors=[prepare, seqio.CacheDatasetPlaceholder(), seqio.preprocessors.tokenize],
        output_features={n: seqio.Feature(own, add_eos=False) for n in ('inputs', 'targets')},
        postprocess_fn=postprocess,
        metric_fns=[seqio_metric(metric) for metric in metrics],
    )


def seqio_metric(metric: Callable[..., float]) -> Callable:
    """A function (predictions, targets) -> number as seqio wants it, of (targets, predictions)."""

    def scores(targets, predictions):
        return {metric.__name__: metric(predictions, targets)}

    return scores


def texts(inputs: str, targets: str, begin: str = '') -> Callable:
    """A `prepare` for `text_to_text_task`: the source's texts by name, `begin` before inputs."""

    def pair(example):
        return {'inputs': begin + example[inputs], 'targets': example[targets]}

    return functools.partial(_mapped, function=pair)


def _mapped(dataset: tf.data.Dataset, function) -> tf.data.Dataset:
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE)
