"""T5 1.1 base by span corruption on C4 (Raffel et al. 2020).

    t5x-lite train experiments/t5_1_1_base_c4.py --run runs/t5_1_1_base_c4

Data: `c4/en` in the folder named by --tfds_data_dir. Hardware: TPU or GPU.
"""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.evaluate import LossEval, Samples
from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.model.presets import t5_1_1_base
from t5x_lite.objectives.span_corruption import span_corruption
from t5x_lite.optim import Adafactor

STEPS = 1_000_000

experiment = Experiment(
    model=t5_1_1_base(dtype='bfloat16'),
    streams={
        'span': Stream(
            mixture='c4_en',
            objective=span_corruption(z_loss=1e-4),
            lengths={'inputs': 512, 'targets': 114},
            batch_size=2048,
        )
    },
    optimizer=Adafactor(),
    steps=STEPS,
    evals={'loss': LossEval(every=5_000, batches=10), 'samples': Samples(every=20_000)},
    checkpoint=Checkpoints(every=5_000),
    imports=('t5x_lite.data.tasks.c4',),
)
