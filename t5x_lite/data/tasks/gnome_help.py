"""Tasks `gnome_help_en_de`, `gnome_help_en_zh`: GNOME's help translated from English."""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.data import corpora
from t5x_lite.data.text_task import PreparedTfds
from t5x_lite.data.text_to_text_task import text_to_text_task, texts
from t5x_lite.data.tfds_builder import GnomeHelpEnDe, GnomeHelpEnZh, prepared

# No metric_fns: BLEU needs an extra. DecodeEval(metrics=(overlap.bleu,)) adds it.
for builder in (GnomeHelpEnDe, GnomeHelpEnZh):
    source = PreparedTfds(
        f'{builder.name}:{builder.VERSION}',
        splits={split: split for split in corpora.SPLITS},
        prepare=prepared(builder),
    )
    text_to_text_task(builder.name, source, texts('text', 'translation'))
