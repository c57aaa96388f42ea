"""Contrastive sentence vectors (SimCSE) on the bundled corpus: 4 encoder layers of width 256.

    t5x-lite train experiments/recipes/simcse_mini.py --run runs/simcse
"""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.evaluate import EmbedEval
from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.model.presets import encoder_mini
from t5x_lite.objectives.contrastive import simcse
from t5x_lite.objectives.losses import pool_mean
from t5x_lite.optim import AdamW
from t5x_lite.schedules import Cosine

STEPS = 1_500

experiment = Experiment(
    model=encoder_mini(dropout=0.1, unroll=4),
    streams={
        'simcse': Stream(
            mixture='corpus_en_pd',
            objective=simcse(pool=pool_mean),
            lengths={'targets': 64},
            batch_size=64,
        )
    },
    optimizer=AdamW(
        learning_rate=Cosine(peak=3e-4, warmup=100, steps=STEPS, floor=0.02),
        weight_decay=0.1,
        b2=0.98,
        clip=1.0,
    ),
    steps=STEPS,
    evals={'embed': EmbedEval(stream='simcse', every=100, pool=pool_mean)},
    checkpoint=Checkpoints(every=500),
    log_every=50,
    data_shards=8,  # a batch takes its rows from eight documents
    imports=('t5x_lite.data.tasks.corpus_en_pd',),
)
