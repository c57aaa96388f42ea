"""Masked LM and next sentence as two terms of one forward: a small BERT (Devlin et al. 2018).

    t5x-lite train experiments/bert_mini.py --run runs/bert_mini

Hardware: a CPU with 2 cores, or any accelerator.
"""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.evaluate import LossEval
from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.model.presets import encoder_mini
from t5x_lite.objectives.sentence_pairs import bert
from t5x_lite.optim import AdamW
from t5x_lite.schedules import Cosine

STEPS = 2_000

experiment = Experiment(
    model=encoder_mini(types=2),
    streams={
        'bert': Stream(
            mixture='corpus_en_pd',
            objective=bert(),
            lengths={'targets': 128},
            batch_size=32,
        ),
    },
    optimizer=AdamW(
        learning_rate=Cosine(peak=0.001, warmup=200, steps=STEPS, floor=0.1),
        weight_decay=0.1,
        b2=0.98,
        clip=1.0,
    ),
    steps=STEPS,
    evals={'loss': LossEval(every=500, baseline=200)},
    checkpoint=Checkpoints(every=500),
    imports=('t5x_lite.data.tasks.corpus_en_pd',),
)
