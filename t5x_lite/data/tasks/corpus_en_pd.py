"""Tasks on the bundled corpus: all of it, its two sources, and a mixture of these."""
# SPDX-License-Identifier: Apache-2.0

import seqio

from t5x_lite.data import corpora, tfds_builder
from t5x_lite.data.text_task import PreparedTfds, text_task

SOURCE = PreparedTfds(
    tfds_builder.NAME, splits={s: s for s in corpora.SPLITS}, prepare=tfds_builder.prepare
)

# Few and long documents: seqio's buffer of 1000 would hold three epochs of them.
BUFFER = 32

text_task('corpus_en_pd', SOURCE, shuffle_buffer=BUFFER)
for name in ('austen', 'sotu'):
    own = lambda example, name=name: example['source'] == name
    text_task(name, SOURCE, keep=own, shuffle_buffer=BUFFER)

# Documents in train: seqio's examples-proportional rate would count the whole source twice.
seqio.MixtureRegistry.add('corpus_en_pd_mix', [('austen', 239), ('sotu', 95)])
