"""Loss curves of a recipe with its layers' products in float, int8 and fp8, all else equal."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import pathlib
import shlex
import sys
import time

import jax

from t5x_lite import beginning, config, sharding, step
from t5x_lite.experiment import Experiment
from t5x_lite.model.matmuls import Float, Fp8, Int8

KINDS = {'float': Float(), 'int8': Int8(), 'fp8': Fp8()}


def with_matmul(experiment: Experiment, kind: str) -> Experiment:
    """The experiment with its layers' products computed so."""
    model = dataclasses.replace(experiment.model, matmul=KINDS[kind])
    return dataclasses.replace(experiment, model=model)


def losses(experiment: Experiment) -> tuple[list[float], float]:
    """(The loss of every step, CPU seconds of a step: the mean without the first)."""
    mesh = sharding.make_mesh(experiment.mesh)
    loaders = beginning.open_streams(experiment, mesh, beginning.held_rows(experiment, mesh))
    state, train_step = step.make_init(experiment, mesh)(), step.make_train_step(experiment, mesh)
    found, began = [], 0.0
    for number in range(experiment.steps):
        batches = {name: next(rows) for name, rows in loaders.items()}
        state, means = train_step(state, batches)
        found.append(float(means['loss'].value))
        began = time.process_time() if number == 0 else began
    seconds = (time.process_time() - began) / (experiment.steps - 1)
    for rows in loaders.values():
        rows.close()
    return found, seconds


def windows(values: list[float], size: int) -> list[float]:
    """Means of every `size` values."""
    return [sum(values[i : i + size]) / size for i in range(0, len(values) - size + 1, size)]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('--set', action='append', default=[], help='model.dtype=bfloat16, say')
    parser.add_argument('--kinds', nargs='+', default=list(KINDS), choices=KINDS)
    parser.add_argument('--window', type=int, default=20, help='steps of a mean')
    parser.add_argument('--json', type=pathlib.Path)
    options = parser.parse_args(arguments)
    experiment = config.load(options.config, options.set).experiment
    curves, seconds = {}, {}
    for kind in options.kinds:
        values, seconds[kind] = losses(with_matmul(experiment, kind))
        curves[kind] = windows(values, options.window)
        shown = ' '.join(f'{loss:.4f}' for loss in curves[kind])
        print(f'{kind}: {shown}; {seconds[kind]:.2f} CPU seconds a step', flush=True)
    if options.json:
        record = {
            'config': options.config,
            'set': options.set,
            'steps': experiment.steps,
            'window': options.window,
            'loss': curves,
            'cpu_seconds_per_step': seconds,
            'device': jax.devices()[0].device_kind,
            'versions': {name: importlib.metadata.version(name) for name in ('jax', 'qwix')},
            'date': f'{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M+00:00}',
            'command': f'python -m benchmarks.quantised {shlex.join(arguments)}',
        }
        options.json.write_text(json.dumps(record, indent=1) + '\n')


if __name__ == '__main__':
    main(sys.argv[1:])
