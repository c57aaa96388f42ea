"""Knowledge masking (ERNIE) on Wikipedia's leads with 4 encoder layers of width 256.

    t5x-lite train experiments/ernie_mini.py --run runs/ernie_mini

Hardware: a CPU with 2 cores, or any accelerator.
"""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.data.masking import Entities
from t5x_lite.evaluate import LossEval
from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.model.presets import encoder_mini
from t5x_lite.objectives.mlm import mlm
from t5x_lite.optim import AdamW
from t5x_lite.schedules import Cosine

STEPS = 1_000

experiment = Experiment(
    model=encoder_mini(),
    streams={
        'mlm': Stream(
            mixture='wiki_entities',
            objective=mlm(choose=Entities()),
            lengths={'targets': 128},
            batch_size=32,
        )
    },
    optimizer=AdamW(
        learning_rate=Cosine(peak=0.001, warmup=100, steps=STEPS, floor=0.1),
        weight_decay=0.1,
        b2=0.98,
        clip=1.0,
    ),
    steps=STEPS,
    evals={'loss': LossEval(every=250, baseline=60)},
    checkpoint=Checkpoints(every=250),
    imports=('t5x_lite.data.tasks.wiki_entities',),
)
