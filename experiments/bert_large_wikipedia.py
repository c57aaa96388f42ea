"""BERT large by masked LM and next sentence on English Wikipedia (Devlin et al. 2018).

    t5x-lite train experiments/bert_large_wikipedia.py --run runs/bert_large_wikipedia

Data: `wikipedia/20230601.en` in the folder named by --tfds_data_dir.
Hardware: TPU v5e-64 (docs/scale.md).
The paper adds books, and length 512 for the last tenth of the steps.
"""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.evaluate import LossEval
from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.model.presets import bert_large
from t5x_lite.objectives.mlm import MaskedLM
from t5x_lite.objectives.sentence_pairs import bert
from t5x_lite.optim import bert_adamw
from t5x_lite.schedules import BertLinear

STEPS = 1_000_000

experiment = Experiment(
    model=bert_large(dtype='bfloat16'),
    streams={
        'bert': Stream(
            mixture='wikipedia_en',
            objective=bert(masking=MaskedLM(max_predictions=20)),
            lengths={'targets': 128},
            batch_size=256,
        )
    },
    optimizer=bert_adamw(BertLinear(peak=1e-4, warmup=10_000, steps=STEPS)),
    steps=STEPS,
    evals={'loss': LossEval(every=10_000, batches=100)},
    checkpoint=Checkpoints(every=10_000),
    imports=('t5x_lite.data.tasks.wikipedia',),
)
