"""Experiments of random tokens over a preset, as the options of the benchmarks say."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import dataclasses
import inspect

import jax
import numpy as np

from t5x_lite.data import noise
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Experiment, Stream
from t5x_lite.model import presets
from t5x_lite.model.config import DTYPES, ModelConfig
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.objectives.contrastive import simcse
from t5x_lite.objectives.mlm import mlm
from t5x_lite.objectives.span_corruption import span_corruption
from t5x_lite.optim import Adafactor, AdamW
from t5x_lite.overrides import override

PRESETS = {
    name: value
    for name, value in inspect.getmembers(presets, inspect.isfunction)
    if name in presets.__all__ and not name.startswith('_')
}
OBJECTIVES = {
    'causal_lm': causal_lm(separate=False),
    'mlm': mlm(),
    'span_corruption': span_corruption(),
    'simcse': simcse(),
}
OPTIMIZERS = {'adamw': AdamW(learning_rate=1e-4), 'adafactor': Adafactor()}
FAMILY = {
    ('encoder',): 'mlm',
    ('decoder',): 'causal_lm',
    ('encoder', 'decoder'): 'span_corruption',
}


def make_experiment(options) -> Experiment:
    """One stream of the objective over the preset, all as the options say."""
    model: ModelConfig = PRESETS[options.preset](dtype=options.dtype)
    name = options.objective or FAMILY[model.stacks]
    if name == 'simcse':  # its two views differ by dropout
        model = dataclasses.replace(model, dropout=0.1)
    lengths = {'targets': options.length}
    if name == 'span_corruption':
        converter = OBJECTIVES[name].converter
        fitting = noise.raw_length(options.length, converter.density, converter.mean_span)[1]
        lengths = {'inputs': options.length, 'targets': fitting}
    stream = Stream(
        mixture='random tokens',
        objective=OBJECTIVES[name],
        lengths=lengths,
        batch_size=options.batch,
    )
    optimizer = OPTIMIZERS[options.optimizer]
    experiment = Experiment(model=model, streams={name: stream}, optimizer=optimizer, steps=1)
    experiment, _ = override(experiment, options.set)
    experiment.check_devices(jax.device_count())
    return experiment


def random_batch(stream: Stream, vocab: int) -> dict[str, np.ndarray]:
    """Random tokens without padding; an encoder predicts as many as it may, a decoder all."""
    random, batch = np.random.default_rng(0), {}
    for name, (shape, dtype) in stream.spec().items():
        kind = name.partition('_')[2]
        if kind in ('input_tokens', 'target_tokens'):
            values = random.integers(1, vocab, shape)
        elif kind in ('segment_ids', 'loss_weights'):
            values = np.ones(shape)
        elif kind == 'example_ids':
            values = np.arange(shape[0])
        elif kind == 'positions':
            values = np.broadcast_to(np.arange(shape[1]), shape)
        elif kind == 'predicted_positions':  # any but the first
            others = np.arange(1, batch['encoder_input_tokens'].shape[1])
            values = random.permuted(np.tile(others, (shape[0], 1)), axis=1)[:, : shape[1]]
            weights = np.zeros_like(batch['encoder_loss_weights'])
            np.put_along_axis(weights, values, 1, axis=1)
            batch['encoder_loss_weights'] = weights
        else:
            raise ConfigError(f'benchmarks: {name} is no array that they can fill')
        batch[name] = values.astype(dtype)
    return batch


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f'{text!r} must be an integer of 1 or more')
    return int(text)


def add_experiment(parser) -> None:
    """The options of `make_experiment`."""
    parser.add_argument('--preset', choices=PRESETS, required=True)
    parser.add_argument('--objective', choices=OBJECTIVES, help="default: the family's own")
    parser.add_argument('--optimizer', choices=OPTIMIZERS, default='adamw')
    parser.add_argument('--batch', type=int, default=8, help='rows over all devices')
    parser.add_argument('--length', type=int, default=128, help='tokens of a row')
    parser.add_argument('--dtype', choices=DTYPES, default='float32', help='of the products')
    parser.add_argument('--set', action='append', default=[], metavar='model.embed=256')
