"""Tasks `glue_cola`, ..: GLUE as labelled texts, from a prepared TFDS folder."""
# SPDX-License-Identifier: Apache-2.0
# Wang et al. 2018. `classification(labels=2)` or `texts=('inputs', 'inputs_2')` of pairs; MNLI has
# 3 labels; STS-B is `regression(texts=...)`. The test splits hide their labels: they are left out.

from t5x_lite.data.labelled_task import labelled_task
from t5x_lite.data.text_task import PreparedTfds

TEXTS = {
    'cola': ('sentence',),
    'sst2': ('sentence',),
    'mrpc': ('sentence1', 'sentence2'),
    'qqp': ('question1', 'question2'),
    'stsb': ('sentence1', 'sentence2'),
    'mnli': ('premise', 'hypothesis'),
    'qnli': ('question', 'sentence'),
    'rte': ('sentence1', 'sentence2'),
    'wnli': ('sentence1', 'sentence2'),
}
SPLITS = {'train': 'train', 'validation': 'validation'}
MNLI_SPLITS = {
    'train': 'train',
    'validation': 'validation_matched',
    'validation_mismatched': 'validation_mismatched',
}

for name, texts in TEXTS.items():
    labelled_task(
        f'glue_{name}',
        PreparedTfds(f'glue/{name}:2.0.0', splits=MNLI_SPLITS if name == 'mnli' else SPLITS),
        dict(zip(('inputs', 'inputs_2'), texts, strict=False)),
        numbers=name == 'stsb',
    )
