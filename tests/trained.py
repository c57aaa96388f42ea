"""Folders of runs as `t5x-lite train` leaves them, with random weights, for tests."""
# SPDX-License-Identifier: Apache-2.0

import jax
import seqio
import tensorflow as tf

from t5x_lite import checkpoint, printing, step
from t5x_lite.data.vocabularies import bundled
from t5x_lite.experiment import Experiment, Stream
from t5x_lite.model.config import ModelConfig
from t5x_lite.optim import AdamW

SIZES = dict(vocab=8192, embed=16, heads=2, mlp=32)


def experiment(objective, lengths, mixture='texts_for_a_test', model=None, **fields) -> Experiment:
    """One stream, `s`, on a registered task."""
    layers = {f'{stack}_layers': 1 for stack in objective.forward.needs}
    types = 2 * ('encoder' in objective.forward.needs)
    sizes = SIZES | dict(encoder_layers=0, decoder_layers=0, types=types, dropout=0.1) | layers
    stream = Stream(mixture=mixture, objective=objective, lengths=lengths, batch_size=8)
    fields = dict(optimizer=AdamW(learning_rate=1e-3), steps=10) | fields
    return Experiment(model=ModelConfig(**sizes | (model or {})), streams={'s': stream}, **fields)


def register(name: str, features: dict[str, seqio.Feature], examples: dict[str, list]) -> None:
    """A task of these examples in splits train and validation."""
    if name in seqio.TaskRegistry.names():
        return
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(examples),
        splits=['train', 'validation'],
    )
    steps = [seqio.preprocessors.tokenize, seqio.CacheDatasetPlaceholder()]
    seqio.TaskRegistry.add(name, source, preprocessors=steps, output_features=features)


def texts(*names: str) -> dict[str, seqio.Feature]:
    """Features of the bundled vocabulary."""
    return {name: seqio.Feature(bundled(), add_eos=False) for name in names}


def folder(path, run: Experiment, steps=(0,), louder: float = 8.0):
    """A run's folder with a checkpoint of these steps; scores are far enough apart to differ."""
    path.mkdir(parents=True, exist_ok=True)
    (path / 'experiment.py').write_text(printing.source(run), encoding='utf-8')
    params = step.init_state(run).params
    for number in steps:
        scaled = jax.tree.map(lambda x, by=louder + number: x * by if x.ndim > 1 else x, params)
        checkpoint.write_params(path / 'checkpoints', scaled, number)
    return path, scaled
