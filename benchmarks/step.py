"""Speed of a preset's jitted train step on this device, alone or beside transformers' step."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import dataclasses
import datetime
import inspect
import json
import os
import pathlib
import platform
import resource
import shlex
import statistics
import sys

import flax
import jax
import numpy as np
import optax

from benchmarks import peer
from benchmarks.timing import Matmul, TrainStep, alternate
from t5x_lite.data import noise
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Experiment, Stream
from t5x_lite.flops import train_step_flops
from t5x_lite.model import presets
from t5x_lite.model.config import DTYPES, ModelConfig
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.objectives.contrastive import simcse
from t5x_lite.objectives.mlm import mlm
from t5x_lite.objectives.span_corruption import span_corruption
from t5x_lite.optim import AdamW
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
FAMILY = {
    ('encoder',): 'mlm',
    ('decoder',): 'causal_lm',
    ('encoder', 'decoder'): 'span_corruption',
}


def make_experiment(options) -> Experiment:
    """One stream of the objective over the preset, with AdamW, all as the options say."""
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
    optimizer = AdamW(learning_rate=1e-4)
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
        elif kind == 'positions':
            values = np.broadcast_to(np.arange(shape[1]), shape)
        elif kind == 'predicted_positions':  # any but the first
            others = np.arange(1, batch['encoder_input_tokens'].shape[1])
            values = random.permuted(np.tile(others, (shape[0], 1)), axis=1)[:, : shape[1]]
            weights = np.zeros_like(batch['encoder_loss_weights'])
            np.put_along_axis(weights, values, 1, axis=1)
            batch['encoder_loss_weights'] = weights
        else:
            raise ConfigError(f'benchmarks.step: {name} is no array it can fill')
        batch[name] = values.astype(dtype)
    return batch


def measure(options) -> dict:
    """Everything that was measured, as one record."""
    experiment = make_experiment(options)
    if options.peer:
        peer.check(experiment)
    ((name, stream),) = experiment.streams.items()
    batch = random_batch(stream, experiment.model.vocab)
    ours = TrainStep(experiment, {name: batch})
    record = {
        'preset': options.preset,
        'objective': name,
        'set': options.set,
        'dtype': experiment.model.dtype,
        'batch': stream.batch_size,
        'lengths': dict(stream.lengths),
        'parameters': ours.parameters,
        'compile_seconds': ours.compile_seconds,
        'host_ms': ours.host_ms(),
    }
    record |= peak_memory()  # before the others take theirs
    size = options.matmul or (2048 if jax.default_backend() == 'cpu' else 8192)
    matmul = Matmul(size, experiment.model.dtype)
    contestants = {'matmul': matmul, 't5x_lite': ours}
    if options.peer:
        contestants['transformers'] = peer.TransformersStep(experiment, batch, ours.parameters)
    seconds = alternate(contestants, options.rounds, options.steps)
    record |= speed(experiment, seconds['t5x_lite'], matmul, min(seconds['matmul']))
    if options.peer:
        times = seconds['transformers']
        ratio = statistics.median(times) / statistics.median(seconds['t5x_lite'])
        record['peer'] = contestants['transformers'].describe() | step_ms(times) | {'ratio': ratio}
    return record


def speed(experiment: Experiment, seconds: list[float], matmul: Matmul, fastest: float) -> dict:
    """Step time, and what it says of tokens and FLOPs; `fastest` is of one `matmul`, in seconds."""
    median = statistics.median(seconds)
    flops, tokens = train_step_flops(experiment), experiment.tokens_per_step
    peak = matmul.flops / fastest
    return step_ms(seconds) | {
        'tokens_per_step': tokens,
        'tokens_per_second': tokens / median,
        'flops_per_step': flops,
        'flops_per_second': flops / median,
        'peak_flops_per_second': peak,
        'peak_matmul': matmul.shape,
        'mfu': flops / median / peak,
    }


def step_ms(seconds: list[float]) -> dict:
    return {'step_ms': 1e3 * statistics.median(seconds), 'round_ms': [1e3 * s for s in seconds]}


def peak_memory() -> dict:
    """Bytes so far, and what they are."""
    stats = jax.devices()[0].memory_stats()
    if stats and 'peak_bytes_in_use' in stats:
        return {'memory_bytes': stats['peak_bytes_in_use'], 'memory_is': 'of device 0'}
    unit = 1 if sys.platform == 'darwin' else 1024
    size = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {'memory_bytes': size, 'memory_is': 'RSS, with compilation'}


def device_name() -> str:
    device = jax.devices()[0]
    if device.platform != 'cpu':
        return f'{jax.device_count()} x {device.device_kind}'
    info = pathlib.Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return f'{models[0] if models else platform.machine()}, {os.cpu_count()} cores'


def versions() -> dict[str, str]:
    known = {module.__name__: module.__version__ for module in (jax, flax, optax, np)}
    return {'python': platform.python_version(), **known}


def table(record: dict) -> str:
    """The record's main figures for people."""
    rounds = record['round_ms']
    lines = {
        'model': f'{record["preset"]} {" ".join(record["set"])}, '
        f'{record["parameters"] / 1e6:.1f} M parameters, {record["dtype"]}',
        'batch': f'{record["objective"]}, {record["batch"]} rows of {record["lengths"]}',
        'device': record['device'],
        'step': f'{record["step_ms"]:.2f} ms ({min(rounds):.2f} to {max(rounds):.2f})',
        'tokens/s': f'{record["tokens_per_second"]:,.0f}',
        'FLOPs': f'{record["flops_per_step"]:.4g}, {record["flops_per_second"]:.4g} a second',
        'MFU': f'{record["mfu"]:.1%} of {record["peak_flops_per_second"]:.4g} a second '
        f'({record["peak_matmul"]})',
        'memory': f'{record["memory_bytes"] / 2**30:.2f} GiB ({record["memory_is"]})',
        'compile': f'{record["compile_seconds"]:.1f} s',
        'host': f'{record["host_ms"]:.2f} ms until the call returns',
    }
    if 'peer' in record:
        other = record['peer']
        lines['transformers'] = (
            f'{other["step_ms"]:.2f} ms ({min(other["round_ms"]):.2f} to '
            f'{max(other["round_ms"]):.2f}), {other["ratio"]:.2f} x ours'
        )
    return '\n'.join(f'{name:13}{text}' for name, text in lines.items())


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f'{text!r} must be an integer of 1 or more')
    return int(text)


def parse(arguments) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.step', description=__doc__)
    parser.add_argument('--preset', choices=PRESETS, required=True)
    parser.add_argument('--objective', choices=OBJECTIVES, help="default: the family's own")
    parser.add_argument('--batch', type=int, default=8, help='rows over all devices')
    parser.add_argument('--length', type=int, default=128, help='tokens of a row')
    parser.add_argument('--dtype', choices=DTYPES, default='float32', help='of the products')
    parser.add_argument('--set', action='append', default=[], metavar='model.embed=256')
    parser.add_argument('--rounds', type=positive, default=7)
    parser.add_argument('--steps', type=positive, default=5, help='timed in each round')
    parser.add_argument('--matmul', type=positive, help='n: the peak is of n x n products')
    parser.add_argument('--peer', choices=['transformers'], help='run it too, in turns')
    parser.add_argument('--json', type=pathlib.Path, metavar='FILE', help='write the record there')
    return parser.parse_args(arguments)


def main(arguments=None) -> None:
    options = parse(arguments)
    jax.config.update('jax_enable_compilation_cache', False)
    try:
        if options.json and not options.json.parent.is_dir():
            raise ConfigError(f'--json {options.json}: there is no folder {options.json.parent}')
        record = measure(options)
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    given = sys.argv[1:] if arguments is None else arguments
    record |= {
        'device': device_name(),
        'versions': versions(),
        'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='minutes'),
        'command': shlex.join(['python', '-m', 'benchmarks.step', *given]),
    }
    line = json.dumps(record)
    print(table(record), line, sep='\n')
    if options.json:
        options.json.write_text(line + '\n')


if __name__ == '__main__':
    main()
