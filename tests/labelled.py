"""Labelled examples of random words, seqio tasks of them, and runs on one batch, for tests."""
# SPDX-License-Identifier: Apache-2.0

import fixtures
import numpy as np
import test_step

from t5x_lite.data.loader import ShardBatches
from t5x_lite.experiment import Experiment, Stream
from t5x_lite.model.config import ModelConfig
from t5x_lite.optim import AdamW


def experiment(objective, lengths, *, batch_size=8, model=None, **fields) -> Experiment:
    """One stream, `s`, of width 32."""
    layers = {f'{stack}_layers': 1 for stack in objective.forward.needs}
    types = 2 * ('encoder' in objective.forward.needs)
    sizes = dict(vocab=64, embed=32, heads=4, mlp=64, types=types) | layers
    stream = Stream(mixture='none', objective=objective, lengths=lengths, batch_size=batch_size)
    fields = dict(optimizer=AdamW(learning_rate=5e-3, clip=1.0), steps=10) | fields
    return Experiment(model=ModelConfig(**sizes | (model or {})), streams={'s': stream}, **fields)


def batch_of(run: Experiment, examples) -> dict:
    """The first batch of the stream, made of the examples by the loader's own shard."""
    stream = run.streams['s']
    rows = ShardBatches(
        iter(examples),
        stream.objective.converter,
        stream.lengths,
        fixtures.vocabulary(),
        rows=stream.batch_size,
        seed=(0,),
    )
    return next(rows)


def overfitted(run: Experiment, examples, steps: int):
    """The first and the last step's metrics of training on the examples' first batch."""
    values, state = test_step.run(run, [{'s': batch_of(run, examples)}] * steps)
    return values[0], values[-1], state


def words(draw: np.random.Generator, count: int) -> np.ndarray:
    return draw.integers(7, 56, count).astype(np.int32)
