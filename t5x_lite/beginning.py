"""How a run starts: the data opens while the step is compiled and weights are read or drawn."""
# SPDX-License-Identifier: Apache-2.0

import functools
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax.traverse_util import flatten_dict

from t5x_lite import (
    hosts,
    metrics,
    recompute,
    sharding,
    step,
    stopwatch,
    term_norms,
    warm_start,
)
from t5x_lite.checkpoint import Checkpointer
from t5x_lite.data import loader
from t5x_lite.experiment import Experiment
from t5x_lite.interop import kept_files
from t5x_lite.metrics import Mean
from t5x_lite.model import choosing
from t5x_lite.progress import Reporter
from t5x_lite.stopwatch import ACCOUNT, STAGES, Stopwatch
from t5x_lite.tuning import summary
from t5x_lite.window import Window


class Run(NamedTuple):
    """What a run works with; `state` is the first one."""

    experiment: Experiment
    folder: Path
    mesh: Any
    train_step: Any
    term_norms: Any  # None: not asked for
    held: Mapping[str, sharding.Held]
    loaders: Mapping[str, loader.Loader]
    evaluators: Mapping[str, Any]
    checkpoints: Checkpointer
    writer: metrics.Writer
    reporter: Reporter
    clock: Stopwatch
    beside: float  # seconds that the data was opened in a thread, beside the stages before `data`
    state: step.TrainState | None
    window: Window


def start(experiment: Experiment, folder: Path, stack, reporter: Reporter, wandb, clock) -> Run:
    """Compiles, opens the data, restores or initialises; what must be closed is put on `stack`."""
    experiment.check_devices(jax.device_count())
    devices = jax.device_count(), recompute.device_memory()
    experiment, remat = recompute.chosen(experiment, *devices)
    mesh = sharding.make_mesh(experiment.mesh)
    checkpoints = Checkpointer(folder / 'checkpoints', experiment.checkpoint)
    weights = open_init(experiment) if checkpoints.empty() else None
    if weights and weights.keep and hosts.is_first():
        kept_files.copy(weights.keep, folder / kept_files.FOLDER)
    for line in summary.learned(experiment):
        reporter.say(line)
    reporter.say(remat)
    begin('trace', clock)
    held = held_rows(experiment, mesh)
    with ThreadPoolExecutor(1) as pool:  # TensorFlow loads while XLA compiles
        opening = pool.submit(timed, lambda: open_streams(experiment, mesh, held))
        train_step = compile_step(experiment, mesh, clock, reporter)
        begin('weights', clock)
        state, positions, means = restore_or_init(experiment, mesh, checkpoints, reporter, weights)
        begin('data', clock)
        loaders, beside = opening.result()
    for name, position in positions.items():
        loaders[name].restore(position)
    writer = metrics.Writer(folder, wandb=wandb) if hosts.is_first() else metrics.Silent()
    if (folder / 'metrics.jsonl').exists():
        clock.carry(stopwatch.last(metrics.read_lines(folder / 'metrics.jsonl'), ACCOUNT))
    for closing in (reporter, writer, checkpoints, *loaders.values()):
        stack.callback(closing.close)
    stack.push(hosts.leave_if_lost)
    window = Window(clock, means)
    window.begin({name: rows.counts for name, rows in loaders.items()}, part_read(experiment, held))
    evaluators = {name: e.open(experiment, mesh) for name, e in experiment.evals.items()}
    norms = term_norms.make_term_norms(experiment, mesh) if experiment.term_norms_every else None
    begin('batch', clock)
    parts = (mesh, train_step, norms, held, loaders, evaluators, checkpoints, writer, reporter)
    return Run(experiment, folder, *parts, clock, beside, state, window)


def begin(stage: str, clock: Stopwatch) -> None:
    """From here on the start is at this stage; the other hosts are told."""
    clock.begin(f'start/{stage}')
    hosts.stage(STAGES[stage])


def timed(action):
    """(What `action` returns, the seconds it took)."""
    began = time.monotonic()
    return action(), time.monotonic() - began


def held_rows(experiment: Experiment, mesh) -> dict[str, sharding.Held]:
    """What this host reads of every stream."""
    return {
        name: sharding.held(stream.batch_size, experiment.data_shards, mesh, experiment.rules)
        for name, stream in experiment.streams.items()
    }


def open_streams(experiment: Experiment, mesh, held) -> dict[str, loader.Loader]:
    """This host's training data, a Loader for each stream; its batches are on the mesh."""
    place = functools.partial(sharding.put_batch, mesh=mesh, rules=experiment.rules)
    return {
        name: loader.open_stream(
            stream,
            name,
            seed=experiment.seed,
            imports=experiment.imports,
            data_shards=experiment.data_shards,
            hosts=(jax.process_index(), jax.process_count()),
            own=held[name].shards,
            vocab=experiment.model.vocab,
            place=functools.partial(place, own=held[name]),
        )
        for name, stream in experiment.streams.items()
    }


def compile_step(experiment: Experiment, mesh, clock: Stopwatch, reporter: Reporter):
    """The train step, compiled for the experiment's shapes before any data is there.

    Says what computes its attention, as it was chosen while the step was traced.
    """
    state, batches = step.abstract_state(experiment, mesh), step.abstract_batches(experiment, mesh)
    with choosing.watching() as chosen:
        lowered = step.make_train_step(experiment, mesh).lower(state, batches)
    reporter.say(choosing.explained(chosen))
    begin('compile', clock)
    return lowered.compile()


def open_init(experiment: Experiment):
    """What a fresh run's weights are read from, checked before memory is taken; None: drawn."""
    if experiment.adapt is not None:
        experiment.adapt.check_init(experiment.init)
    params = flatten_dict(step.abstract_params(experiment), sep='/')
    shapes = {path: x.shape for path, x in params.items()}
    own = {name: h for name, h in experiment.heads.items() if name not in experiment.teachers}
    return warm_start.open_all(experiment.init, experiment.model, own, experiment.teachers, shapes)


def restore_or_init(experiment, mesh, checkpoints, reporter, weights):
    """(TrainState, positions of streams, sums not logged) of the newest checkpoint; or fresh."""
    found = checkpoints.restore(step.abstract_state(experiment, mesh))
    if found is None:
        if weights is None:
            return step.make_init(experiment, mesh)(), {}, {}
        reporter.say(weights.told)
        return step.start_from(experiment, mesh, weights), {}, {}
    number, state, data, means = found
    reporter.say(f'resuming from step {number}')
    return state, data, {name: Mean(*sums) for name, sums in means.items()}


def part_read(experiment: Experiment, held: Mapping[str, sharding.Held]) -> float:
    """The part of the data that this host reads."""
    return len(next(iter(held.values())).shards) / experiment.data_shards
