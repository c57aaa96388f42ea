"""GPT-2 of 1.5 B parameters on C4, half a million tokens per step.

    t5x-lite train experiments/gpt2_xl_c4.py --run runs/gpt2_xl_c4

Data: `c4/en` in the folder named by --tfds_data_dir. Hardware: TPU v5e-16 (docs/scale.md).
GPT-2 did not publish its rates: these are those of GPT-3 (Brown et al. 2020, table 2.1).
"""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.evaluate import LossEval, Samples
from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.model.presets import gpt2_xl
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.optim import gpt_adamw
from t5x_lite.schedules import Cosine
from t5x_lite.sharding import MeshShape

STEPS = 600_000

experiment = Experiment(
    model=gpt2_xl(dtype='bfloat16', vocab_multiple=128, remat='full'),
    streams={
        'clm': Stream(
            mixture='c4_en',
            objective=causal_lm(separate=False),
            lengths={'targets': 1024},
            batch_size=512,
        )
    },
    optimizer=gpt_adamw(Cosine(peak=2e-4, warmup=2_000, steps=STEPS, floor=0.1)),
    steps=STEPS,
    evals={'loss': LossEval(every=5_000, batches=20), 'samples': Samples(every=20_000)},
    mesh=MeshShape(fsdp=16),
    microbatches=4,
    checkpoint=Checkpoints(every=5_000),
    imports=('t5x_lite.data.tasks.c4',),
)
