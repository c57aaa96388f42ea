"""Task `xsum`: BBC articles and the one sentence that sums them up, from a prepared TFDS folder."""
# SPDX-License-Identifier: Apache-2.0
# Narayan et al. 2018.

from t5x_lite.data.text_task import PreparedTfds
from t5x_lite.data.text_to_text_task import text_to_text_task, texts
from t5x_lite.evaluation.overlap import rouge_1, rouge_2, rouge_l

text_to_text_task(
    'xsum',
    PreparedTfds('xsum:1.1.0', splits={s: s for s in ('train', 'validation', 'test')}),
    texts('document', 'summary', begin='summarize: '),
    metrics=(rouge_1, rouge_2, rouge_l),
)
