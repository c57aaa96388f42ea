"""Task `wikipedia_en`: English Wikipedia of 2023-06-01, from a prepared TFDS folder."""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.data.text_task import PreparedTfds, text_task

text_task(
    'wikipedia_en',
    # The dataset has no held-out split: the last hundredth becomes one.
    PreparedTfds(
        'wikipedia/20230601.en:1.0.0', splits={'train': 'train[:99%]', 'validation': 'train[99%:]'}
    ),
)
