"""What a seqio task of tagged words needs: words become pieces, each with its word's number."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Sequence

import numpy as np
import seqio
import tensorflow as tf

from t5x_lite.data import vocabularies


def tagged_task(
    name: str,
    source: seqio.DataSource,
    *,
    tags: Sequence[str] | None = None,
    words_key: str = 'tokens',
    tags_key: str = 'tags',
    vocabulary: seqio.Vocabulary | None = None,
) -> seqio.Task:
    """Registers a task for `tagging()`: `inputs` and `words` [n], `tags` [w].

    Args:
      tags: what the source calls the tags, if it does not number them.
      words_key: the source's words, strings [w].
      tags_key: the source's tags, names or numbers [w].
      vocabulary: the bundled one if None.
    """
    own = vocabulary or vocabularies.bundled()
    annotate = functools.partial(
        _annotated, keys=(words_key, tags_key), tags=tags and tuple(tags), vocabulary=own
    )
    number = seqio.Feature(seqio.PassThroughVocabulary(2**31 - 1), add_eos=False)
    return seqio.TaskRegistry.add(
        name,
        source,
        preprocessors=[annotate, seqio.CacheDatasetPlaceholder()],
        output_features={
            'tags': number,
            'words': number,
            'inputs': seqio.Feature(own, add_eos=False),
        },
    )


def _annotated(dataset: tf.data.Dataset, keys, tags, vocabulary) -> tf.data.Dataset:
    def annotate(example):
        cut = functools.partial(pieces, vocabulary=vocabulary)
        types = (tf.int32, tf.int32)
        found = tf.numpy_function(cut, [example[keys[0]]], types, stateful=False)
        inputs, words = (tf.ensure_shape(x, [None]) for x in found)
        own = example[keys[1]]
        if tags is not None:
            # A name that is not known becomes -1, which the objective refuses.
            same_WxC = own[:, None] == tf.constant(tags)[None]
            place = tf.argmax(same_WxC, axis=1, output_type=tf.int32)
            own = tf.where(tf.reduce_any(same_WxC, axis=1), place, -1)
        return {'inputs': inputs, 'words': words, 'tags': tf.cast(own, tf.int32)}

    return dataset.map(annotate, num_parallel_calls=tf.data.AUTOTUNE)


def pieces(words: Sequence[bytes], vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Ids [n] of words with a space before all but the first, and the number of each one's word.

    A word of which a vocabulary keeps nothing is an unknown token.
    """
    ids = [
        vocabulary.encode((' ' if i else '') + word.decode()) or [vocabulary.unk_id]
        for i, word in enumerate(words)
    ]
    numbers = np.repeat(np.arange(len(ids)), [len(x) for x in ids])
    return np.array([i for x in ids for i in x], np.int32), numbers.astype(np.int32)
