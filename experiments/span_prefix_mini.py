"""Span corruption and prefix LM on one encoder-decoder, in two streams.

    t5x-lite train experiments/span_prefix_mini.py --run runs/span_prefix_mini

Hardware: a CPU with 2 cores, or any accelerator.
"""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.evaluate import LossEval, Samples
from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.model.presets import encoder_decoder_mini
from t5x_lite.objectives.prefix_lm import prefix_seq2seq
from t5x_lite.objectives.span_corruption import span_corruption
from t5x_lite.optim import AdamW
from t5x_lite.schedules import Cosine

STEPS = 2_000

experiment = Experiment(
    model=encoder_decoder_mini(),
    streams={
        'span': Stream(
            mixture='corpus_en_pd',
            objective=span_corruption(),
            lengths={'inputs': 128, 'targets': 32},
            batch_size=16,
        ),
        'prefix': Stream(
            mixture='corpus_en_pd',
            objective=prefix_seq2seq(),
            lengths={'inputs': 128, 'targets': 128},
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
    evals={'loss': LossEval(every=500, baseline=200), 'samples': Samples(every=1000)},
    checkpoint=Checkpoints(every=500),
    imports=('t5x_lite.data.tasks.corpus_en_pd',),
)
