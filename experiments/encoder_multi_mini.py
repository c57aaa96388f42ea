"""Masked LM, sentence order and contrastive sentence vectors on one encoder, in two streams.

    t5x-lite train experiments/encoder_multi_mini.py --run runs/encoder_multi_mini

Hardware: a CPU with 2 cores, or any accelerator.
"""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.evaluate import LossEval
from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.model.presets import encoder_mini
from t5x_lite.objectives.contrastive import simcse
from t5x_lite.objectives.sentence_pairs import albert
from t5x_lite.optim import AdamW
from t5x_lite.retrieval import EmbedEval
from t5x_lite.schedules import Cosine

STEPS = 2_000

experiment = Experiment(
    model=encoder_mini(types=2, dropout=0.1),
    streams={
        'albert': Stream(
            mixture='corpus_en_pd',
            objective=albert(),
            lengths={'targets': 128},
            batch_size=16,
        ),
        'simcse': Stream(
            mixture='corpus_en_pd',
            objective=simcse(),
            lengths={'targets': 32},
            batch_size=64,
        ),
    },
    optimizer=AdamW(
        learning_rate=Cosine(peak=0.001, warmup=200, steps=STEPS, floor=0.1),
        weight_decay=0.1,
        b2=0.98,
        clip=1.0,
    ),
    steps=STEPS,
    evals={
        'loss': LossEval(every=500, baseline=200),
        'embed': EmbedEval(stream='simcse', every=500),
    },
    checkpoint=Checkpoints(every=500),
    imports=('t5x_lite.data.tasks.corpus_en_pd',),
)
