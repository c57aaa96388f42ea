"""Replaced-token detection on the bundled corpus: ELECTRA small with 4 layers instead of 12.

    t5x-lite train experiments/electra_mini.py --run runs/electra_mini
    t5x-lite ckpt export --from runs/electra_mini --to electra_mini_hf    # the discriminator

Hardware: a CPU with 2 cores, or any accelerator.
"""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.evaluate import LossEval
from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.model.presets import electra_small
from t5x_lite.objectives.replaced_tokens import electra
from t5x_lite.optim import AdamW
from t5x_lite.schedules import Linear

STEPS = 2_000

experiment = Experiment(
    model=electra_small(vocab=8192, encoder_layers=4, dropout=0.0),
    streams={
        'electra': Stream(
            mixture='corpus_en_pd',
            objective=electra(),
            lengths={'targets': 128},
            batch_size=32,
        )
    },
    optimizer=AdamW(
        learning_rate=Linear(peak=0.0005, warmup=200, steps=STEPS),
        weight_decay=0.01,
        clip=1.0,
    ),
    steps=STEPS,
    evals={'loss': LossEval(every=500, baseline=200)},
    checkpoint=Checkpoints(every=500),
    imports=('t5x_lite.data.tasks.corpus_en_pd',),
)
