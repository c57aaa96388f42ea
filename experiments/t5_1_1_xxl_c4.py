"""T5 1.1 xxl, 11 B parameters, by span corruption on C4 (Raffel et al. 2020).

    t5x-lite train experiments/t5_1_1_xxl_c4.py --run runs/t5_1_1_xxl_c4

Data: `c4/en` in the folder named by --tfds_data_dir. Hardware: TPU v5p-128 (docs/scale.md).
"""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.evaluate import LossEval, Samples
from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.model.presets import t5_1_1_xxl
from t5x_lite.objectives.span_corruption import span_corruption
from t5x_lite.optim import Adafactor
from t5x_lite.sharding import MeshShape

STEPS = 1_000_000

experiment = Experiment(
    model=t5_1_1_xxl(dtype='bfloat16', remat='full'),
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
    mesh=MeshShape(fsdp=64),
    checkpoint=Checkpoints(every=5_000),
    imports=('t5x_lite.data.tasks.c4',),
)
