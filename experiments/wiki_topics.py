"""Topics of Wikipedia's leads, 11 classes: an encoder trained from scratch.

    t5x-lite train experiments/wiki_topics.py --run runs/wiki_topics

Hardware: a CPU with 2 cores, or any accelerator.
"""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.evaluate import LossEval
from t5x_lite.evaluation.predict import PredictEval
from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.model.presets import encoder_mini
from t5x_lite.objectives.classification import classification
from t5x_lite.optim import AdamW
from t5x_lite.schedules import Cosine

STEPS = 600

experiment = Experiment(
    model=encoder_mini(dropout=0.1),
    streams={
        'topics': Stream(
            mixture='wiki_topics',
            objective=classification(labels=11),
            lengths={'inputs': 128},
            batch_size=32,
        )
    },
    optimizer=AdamW(
        learning_rate=Cosine(peak=0.0005, warmup=60, steps=STEPS, floor=0.0),
        weight_decay=0.1,
        clip=1.0,
    ),
    steps=STEPS,
    evals={'loss': LossEval(every=100), 'scores': PredictEval(every=100)},
    checkpoint=Checkpoints(every=100, best='eval/topics/accuracy', highest=True),
    imports=('t5x_lite.data.tasks.wiki_topics_labels',),
)
