"""Causal LM on the bundled corpus with 4 decoder layers of width 256.

    t5x-lite train experiments/clm_mini.py --run runs/clm_mini

Hardware: a CPU with 2 cores, or any accelerator.
"""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.evaluate import LossEval, Samples
from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.model.presets import decoder_mini
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.optim import AdamW
from t5x_lite.schedules import Cosine

STEPS = 2_000

experiment = Experiment(
    model=decoder_mini(),
    streams={
        'clm': Stream(
            mixture='corpus_en_pd',
            objective=causal_lm(),
            lengths={'targets': 256},
            batch_size=16,
        )
    },
    optimizer=AdamW(
        learning_rate=Cosine(peak=0.001, warmup=200, steps=STEPS, floor=0.1),
        weight_decay=0.1,
        b2=0.98,
        clip=1.0,
    ),
    steps=STEPS,
    evals={'loss': LossEval(every=500, baseline=200), 'samples': Samples(every=1000)},
    checkpoint=Checkpoints(every=500),
    imports=('t5x_lite.data.tasks.corpus_en_pd',),
)
