"""Masked LM and SimCSE as two terms of one forward, causal LM as a second stream, on one model.

    t5x-lite train experiments/multi_mini.py --run runs/multi_mini

Hardware: a CPU with 2 cores, or any accelerator.
The encoder learns from the first stream, the decoder from the second, the embedding from both.
"""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.evaluate import LossEval, Samples
from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.model.presets import encoder_decoder_mini
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.objectives.contrastive import mlm_simcse
from t5x_lite.optim import AdamW
from t5x_lite.retrieval import EmbedEval
from t5x_lite.schedules import Cosine

STEPS = 2_000

experiment = Experiment(
    model=encoder_decoder_mini(dropout=0.1),
    streams={
        'sentences': Stream(
            mixture='corpus_en_pd',
            objective=mlm_simcse(),
            lengths={'targets': 64},
            batch_size=32,
        ),
        'clm': Stream(
            mixture='corpus_en_pd_mix',
            objective=causal_lm(),
            lengths={'targets': 128},
            batch_size=16,
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
        'samples': Samples(every=1000),
        'embed': EmbedEval(stream='sentences', every=500),
    },
    checkpoint=Checkpoints(every=500),
    imports=('t5x_lite.data.tasks.corpus_en_pd',),
)
