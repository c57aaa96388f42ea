"""GPT-3, 175 B parameters, on C4, 3.1 million tokens per step.

    t5x-lite train experiments/gpt3_175b_c4.py --run runs/gpt3_175b_c4

Data: `c4/en` in the folder named by --tfds_data_dir. Hardware: TPU v5p-2048 (docs/scale.md).
Sizes, batch, 300 B tokens and rate are those of Brown et al. 2020, without their
ramp of the batch; their data was another.
"""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.evaluate import LossEval, Samples
from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.model.presets import gpt3_175b
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.optim import gpt_adamw
from t5x_lite.schedules import Cosine
from t5x_lite.sharding import MeshShape

STEPS = 95_400

experiment = Experiment(
    model=gpt3_175b(dtype='bfloat16', vocab_multiple=128, remat='full'),
    streams={
        'clm': Stream(
            mixture='c4_en',
            objective=causal_lm(separate=False),
            lengths={'targets': 2048},
            batch_size=1_536,
        )
    },
    optimizer=gpt_adamw(Cosine(peak=0.6e-4, warmup=120, steps=STEPS, floor=0.1)),
    steps=STEPS,
    evals={'loss': LossEval(every=2_000, batches=20), 'samples': Samples(every=10_000)},
    mesh=MeshShape(fsdp=128, model=8),
    checkpoint=Checkpoints(every=2_000),
    imports=('t5x_lite.data.tasks.c4',),
)
