"""GNOME's help from English to German, 2,154 pairs: an encoder-decoder trained from scratch.

    t5x-lite train experiments/gnome_help_en_de.py --run runs/gnome
    t5x-lite generate runs/gnome "Open the file manager."

Hardware: a CPU with 2 cores, or any accelerator. An example of how a run that writes is set up: far
too few texts to learn a language from.
"""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.evaluate import LossEval, Samples
from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.model.presets import encoder_decoder_mini
from t5x_lite.objectives.supervised import seq2seq
from t5x_lite.optim import AdamW
from t5x_lite.schedules import Cosine

STEPS = 2_000

experiment = Experiment(
    model=encoder_decoder_mini(dropout=0.1),
    streams={
        'seq2seq': Stream(
            mixture='gnome_help_en_de',
            objective=seq2seq(),
            lengths={'inputs': 64, 'targets': 96},
            batch_size=32,
        )
    },
    optimizer=AdamW(
        learning_rate=Cosine(peak=0.001, warmup=200, steps=STEPS, floor=0.1),
        weight_decay=0.1,
        clip=1.0,
    ),
    steps=STEPS,
    evals={
        'loss': LossEval(every=500),
        'samples': Samples(every=500),
    },
    checkpoint=Checkpoints(every=500),
    imports=('t5x_lite.data.tasks.gnome_help',),
)
