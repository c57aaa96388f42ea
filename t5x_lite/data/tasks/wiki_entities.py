"""Task `wiki_entities`: leads of Wikipedia articles in which mentions of the title are marked."""
# SPDX-License-Identifier: Apache-2.0

import functools
import re
from collections.abc import Iterator, Mapping

import numpy as np
import seqio
import tensorflow as tf

from t5x_lite.data import corpora, tfds_builder, vocabularies
from t5x_lite.data.text_task import PreparedTfds
from t5x_lite.data.tfds_builder import WikiTopics

VOCABULARY = vocabularies.bundled()


def mentions(title: str, text: str) -> Iterator[tuple[int, int]]:
    """Where the title stands in the text as whole words, in bytes of UTF-8: [begin, end).

    The first letter may be of either case, as in Wikipedia's links; "(film)" at the title's end, as
    in "Alien (film)", tells articles apart and is not looked for.
    """
    name = re.sub(r' \([^)]*\)$', '', title)
    first = f'[{re.escape(name[0].upper())}{re.escape(name[0].lower())}]'
    for found in re.finditer(rf'(?<!\w){first}{re.escape(name[1:])}(?!\w)', text):
        begin = len(text[: found.start()].encode())
        yield begin, begin + len(found[0].encode())


def entities(title: str, text: str, tokens: np.ndarray) -> np.ndarray:
    """For each token the number of the mention that it is a part of, 1, 2, .., or 0; int32 [n].

    The vocabulary is lossless, so the tokens' bytes are the text's.
    """
    widths = vocabularies.describe(VOCABULARY).bytes_per_token[tokens]
    ends = np.cumsum(widths)
    marks = np.zeros(len(tokens), np.int32)
    for number, (begin, end) in enumerate(mentions(title, text), start=1):
        marks[(ends > begin) & (ends - widths < end)] = number
    return marks


def annotate(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """`targets`, the ids of a text, and `entities`, as many numbers."""
    tokens = VOCABULARY.encode_tf(example['text'])
    decoded = lambda title, text, ids: entities(title.decode(), text.decode(), ids)
    arguments = [example['title'], example['text'], tokens]
    marks = tf.numpy_function(decoded, arguments, tf.int32, stateful=False)
    return {'targets': tokens, 'entities': tf.ensure_shape(marks, [None])}


seqio.TaskRegistry.add(
    'wiki_entities',
    PreparedTfds(
        f'{WikiTopics.name}:{WikiTopics.VERSION}',
        splits={split: split for split in corpora.SPLITS},
        prepare=functools.partial(tfds_builder.prepare, builder=WikiTopics),
    ),
    preprocessors=[lambda dataset: dataset.map(annotate, num_parallel_calls=tf.data.AUTOTUNE)],
    output_features={
        'targets': seqio.Feature(VOCABULARY, add_eos=False),
        'entities': seqio.Feature(seqio.PassThroughVocabulary(2**31 - 1), add_eos=False),
    },
)
