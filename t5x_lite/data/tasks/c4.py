"""Task `c4_en`: the English web crawl of Raffel et al. 2020, from a prepared TFDS folder."""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.data.text_task import PreparedTfds, text_task

text_task(
    'c4_en', PreparedTfds('c4/en:3.0.1', splits={'train': 'train', 'validation': 'validation'})
)
