"""Contrastive sentence vectors (SimCSE) from the masked-LM recipe's encoder.

    t5x-lite train experiments/recipes/mlm_mini.py --run runs/mlm
    t5x-lite train experiments/recipes/simcse_mini.py --run runs/simcse

On 2 CPU cores 2 minutes after the 24 of masked LM. Of 1,000 held-out sentences the one that follows
is the nearest for 7 (10 at step 50; chance 1), with alignment 0.41 and uniformity -1.08; the cosine
of TF-IDF vectors finds more, 2.5 % among 2,000. An encoder that has read 1.3 M words is no sentence
encoder yet: longer training, a higher rate or masked LM beside it spread the vectors further
(uniformity -1.9) and find no more neighbours. Published weights do better: docs/weights.md.
"""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.model.presets import encoder_mini
from t5x_lite.objectives.contrastive import simcse
from t5x_lite.objectives.similarity import pool_mean
from t5x_lite.optim import AdamW
from t5x_lite.retrieval import EmbedEval
from t5x_lite.schedules import Cosine
from t5x_lite.warm_start import from_checkpoint

STEPS = 100

experiment = Experiment(
    model=encoder_mini(dropout=0.2, unroll=4),
    streams={
        'simcse': Stream(
            mixture='corpus_en_pd',
            objective=simcse(pool=pool_mean, mlp=False),
            lengths={'targets': 32},
            batch_size=64,
        )
    },
    optimizer=AdamW(
        learning_rate=Cosine(peak=2e-5, warmup=20, steps=STEPS, floor=0.02),
        weight_decay=0.01,
        clip=1.0,
    ),
    steps=STEPS,
    evals={'embed': EmbedEval(stream='simcse', every=25, pairs=1000, pool=pool_mean)},
    init=from_checkpoint('runs/mlm'),
    checkpoint=Checkpoints(every=50),
    log_every=20,
    data_shards=8,  # a batch takes its rows from eight documents
    imports=('t5x_lite.data.tasks.corpus_en_pd',),
)
