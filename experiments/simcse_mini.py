"""Contrastive sentence vectors on the bundled corpus with 4 encoder layers of width 256.

    t5x-lite train experiments/simcse_mini.py --run runs/simcse_mini

Hardware: a CPU with 2 cores, or any accelerator.
The two views of a sentence differ in their dropout masks: dropout must stay above 0.
"""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.evaluate import LossEval
from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.model.presets import encoder_mini
from t5x_lite.objectives.contrastive import simcse
from t5x_lite.optim import AdamW
from t5x_lite.retrieval import EmbedEval
from t5x_lite.schedules import Cosine

STEPS = 2_000

experiment = Experiment(
    model=encoder_mini(dropout=0.1),
    streams={
        'simcse': Stream(
            mixture='corpus_en_pd',
            objective=simcse(),
            lengths={'targets': 64},
            batch_size=32,
        )
    },
    optimizer=AdamW(
        learning_rate=Cosine(peak=0.0003, warmup=200, steps=STEPS, floor=0.1),
        weight_decay=0.1,
        b2=0.98,
        clip=1.0,
    ),
    steps=STEPS,
    evals={'loss': LossEval(every=500), 'embed': EmbedEval(stream='simcse', every=500)},
    checkpoint=Checkpoints(every=500),
    imports=('t5x_lite.data.tasks.corpus_en_pd',),
)
