"""A decoder of 17 B parameters on C4, half a million tokens per step.

    t5x-lite train experiments/decoder_17b_c4.py --run runs/decoder_17b_c4

Data: `c4/en` in the folder named by --tfds_data_dir. Hardware: TPU v5p-256 (docs/scale.md).
Sizes, batch, steps and rate are those of Turing-NLG (Rosset 2020).
"""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.evaluate import LossEval, Samples
from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.model.presets import turing_nlg_17b
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.optim import gpt_adamw
from t5x_lite.schedules import Cosine
from t5x_lite.sharding import MeshShape

STEPS = 300_000

experiment = Experiment(
    model=turing_nlg_17b(dtype='bfloat16', vocab_multiple=128, remat='full'),
    streams={
        'clm': Stream(
            mixture='c4_en',
            objective=causal_lm(separate=False),
            lengths={'targets': 1024},
            batch_size=512,
        )
    },
    optimizer=gpt_adamw(Cosine(peak=1.5e-4, warmup=3_200, steps=STEPS, floor=0.1)),
    steps=STEPS,
    evals={'loss': LossEval(every=5_000, batches=20), 'samples': Samples(every=20_000)},
    mesh=MeshShape(fsdp=32),
    checkpoint=Checkpoints(every=5_000),
    imports=('t5x_lite.data.tasks.c4',),
)
