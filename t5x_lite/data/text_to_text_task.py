"""What a seqio task of inputs and targets needs: both as tokens, and metrics of what is written."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Callable, Mapping, Sequence

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


def named(begin: str, names: Sequence[str], classes: Sequence[str]) -> Callable:
    """A `prepare` in T5's style: `begin name: text name: text`, and the class by its name.

    Without a label (-1) the target is `<unk>`. Source: Raffel et al. 2020, appendix D.
    """

    def pair(example):
        known = tf.constant(['<unk>', *classes])
        return {
            'inputs': described(begin, {name: example[name] for name in names}),
            'targets': known[tf.cast(example['label'], tf.int32) + 1],
        }

    return functools.partial(_mapped, function=pair)


def described(begin: str, texts: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """`begin name: text name: text`."""
    parts = [part for name, text in texts.items() for part in (f'{name}:', text)]
    return tf.strings.join([begin, *parts], ' ')


def class_of(classes: Sequence[str]) -> Callable:
    """A `postprocess`: the number of the class that is written, -1 if it is none."""
    places = {name: i for i, name in enumerate(classes)}

    def number(text: str, example=None, is_target: bool = False) -> int:
        return places.get(text.strip(), -1)

    return number


def _mapped(dataset: tf.data.Dataset, function) -> tf.data.Dataset:
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE)
