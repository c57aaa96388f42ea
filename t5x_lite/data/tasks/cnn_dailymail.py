"""Task `cnn_dailymail`: news and their highlights, a line each, from a prepared TFDS folder."""
# SPDX-License-Identifier: Apache-2.0
# Hermann et al. 2015, See et al. 2017.

from t5x_lite.data.text_task import PreparedTfds
from t5x_lite.data.text_to_text_task import text_to_text_task, texts
from t5x_lite.evaluation.overlap import rouge_1, rouge_2, rouge_l_sum

text_to_text_task(
    'cnn_dailymail',
    PreparedTfds('cnn_dailymail:3.4.0', splits={s: s for s in ('train', 'validation', 'test')}),
    texts('article', 'highlights', begin='summarize: '),
    metrics=(rouge_1, rouge_2, rouge_l_sum),
)
