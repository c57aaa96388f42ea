"""Tasks `wmt14_en_de`, `wmt14_en_fr`, `wmt16_en_ro`: news translation, from a TFDS folder."""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.data.text_task import PreparedTfds
from t5x_lite.data.text_to_text_task import text_to_text_task, texts

LANGUAGES = {'de': 'German', 'fr': 'French', 'ro': 'Romanian'}
PAIRS = {'wmt14': ('de', 'fr'), 'wmt16': ('ro',)}

# No metric_fns: BLEU needs an extra. DecodeEval(metrics=(overlap.bleu,)) adds it.
for year, languages in PAIRS.items():
    for language in languages:
        text_to_text_task(
            f'{year}_en_{language}',
            PreparedTfds(
                f'{year}_translate/{language}-en:1.0.0',
                splits={s: s for s in ('train', 'validation', 'test')},
            ),
            texts('en', language, begin=f'translate English to {LANGUAGES[language]}: '),
        )
