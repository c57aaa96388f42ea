"""The training run: build, restore, step, log, evaluate, save."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import functools
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax.traverse_util import flatten_dict

from t5x_lite import hosts, metrics, sharding, step, term_norms, warm_start
from t5x_lite.checkpoint import Checkpointer
from t5x_lite.data import loader
from t5x_lite.evaluate import Sample
from t5x_lite.experiment import Experiment
from t5x_lite.interop import kept_files
from t5x_lite.metrics import Mean
from t5x_lite.progress import Reporter
from t5x_lite.report import write_report
from t5x_lite.tuning import summary
from t5x_lite.window import Window


def train(
    experiment: Experiment, folder: Path, *, wandb: bool = False, patience: float = hosts.PATIENCE
) -> dict[str, float]:
    """Trains to `experiment.steps`, from the folder's newest checkpoint if it has one.

    Writes metrics.jsonl, samples.jsonl, checkpoints/, tensorboard/ and report.html, and returns
    the last value of every metric. SIGTERM ends it early with a checkpoint. Of several hosts all
    call this; the first one writes, names those that are not at the first step after `patience`
    seconds, and SIGTERM to any ends all at the same step.

    Raises:
      ConfigError: devices, data or vocabulary do not fit the experiment.
      RunError: the loss is not finite, or a checkpoint cannot be written or read.
    """
    latest = {}
    with contextlib.ExitStack() as stack:
        stopping = stack.enter_context(hosts.stopping())
        reporter = Reporter(experiment.steps, quiet=not hosts.is_first())
        stack.enter_context(hosts.watching(reporter.say, patience))
        run = start(experiment, folder, stack, reporter, wandb)
        state, window, first = run.state, run.window, int(run.state.step)
        run = run._replace(state=None)  # its arrays are given to the first step
        for now in range(first + 1, experiment.steps + 1):
            batches = next_batches(run)
            if now == first + 1:
                hosts.stage(hosts.FIRST_STEP)
            state, means = run.train_step(state, batches)
            for rows in run.loaders.values():
                rows.prefetch()
            window.push(means)  # fetches the step before this one, while this one runs
            values, ended = {}, now == experiment.steps
            if now == first + 1:
                window.flush()
                run.reporter.started(now)
            if now % experiment.log_every == 0 or ended:
                values |= log(now, run)
            if run.term_norms and now % experiment.term_norms_every == 0:
                values |= log_term_norms(now, state, batches, run)
            due = [name for name, e in experiment.evals.items() if now % e.every == 0 or ended]
            if due:
                values |= evaluate(now, state.params, due, run)
            latest |= values
            stop = stopping(now)
            if now % experiment.checkpoint.every == 0 or ended or stop:
                save(now, state, run, values)
            if stop:
                run.reporter.say(f'SIGTERM: saved step {now}; the same command goes on from there')
                break
    if hosts.is_first():
        write_report(folder)
    return latest


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
    state: step.TrainState | None
    window: Window


def start(experiment: Experiment, folder: Path, stack, reporter: Reporter, wandb: bool) -> Run:
    """Compiles, opens the data, restores or initialises; what must be closed is put on `stack`."""
    experiment.check_devices(jax.device_count())
    mesh = sharding.make_mesh(experiment.mesh)
    checkpoints = Checkpointer(folder / 'checkpoints', experiment.checkpoint)
    weights = open_init(experiment) if checkpoints.empty() else None
    if weights and weights.keep and hosts.is_first():
        kept_files.copy(weights.keep, folder / kept_files.FOLDER)
    for line in summary.lines(experiment):
        reporter.say(line)
    hosts.stage('compiles and opens the data')
    held = held_rows(experiment, mesh)
    with ThreadPoolExecutor(1) as pool:  # TensorFlow loads while XLA compiles
        opening = pool.submit(open_streams, experiment, mesh, held)
        train_step = compile_step(experiment, mesh)
        loaders = opening.result()
    writer = metrics.Writer(folder, wandb=wandb) if hosts.is_first() else metrics.Silent()
    for closing in (reporter, writer, checkpoints, *loaders.values()):
        stack.callback(closing.close)
    stack.push(hosts.leave_if_lost)
    hosts.stage('restores or draws the weights')
    state, window = restore_or_init(experiment, mesh, checkpoints, loaders, reporter, weights)
    window.begin({name: rows.counts for name, rows in loaders.items()}, part_read(experiment, held))
    evaluators = {name: e.open(experiment, mesh) for name, e in experiment.evals.items()}
    norms = term_norms.make_term_norms(experiment, mesh) if experiment.term_norms_every else None
    hosts.stage('makes the first batch')
    parts = (mesh, train_step, norms, held, loaders, evaluators, checkpoints, writer, reporter)
    return Run(experiment, folder, *parts, state, window)


def next_batches(run: Run) -> dict:
    """The next batch of every stream, on the mesh."""
    with run.window.timing('data'):
        return {name: next(rows) for name, rows in run.loaders.items()}


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


def compile_step(experiment: Experiment, mesh):
    """The train step, compiled for the experiment's shapes before any data is there."""
    state, batches = step.abstract_state(experiment, mesh), step.abstract_batches(experiment, mesh)
    return step.make_train_step(experiment, mesh).lower(state, batches).compile()


def open_init(experiment: Experiment):
    """What a fresh run's weights are read from, checked before memory is taken; None: drawn."""
    if experiment.adapt is not None:
        experiment.adapt.check_init(experiment.init)
    params = flatten_dict(step.abstract_params(experiment), sep='/')
    shapes = {path: x.shape for path, x in params.items()}
    own = {name: h for name, h in experiment.heads.items() if name not in experiment.teachers}
    return warm_start.open_all(experiment.init, experiment.model, own, experiment.teachers, shapes)


def restore_or_init(experiment, mesh, checkpoints, loaders, reporter, weights):
    """(TrainState, Window) of the newest checkpoint, its data positions set; or fresh ones."""
    found = checkpoints.restore(step.abstract_state(experiment, mesh))
    if found is None:
        if weights is None:
            return step.make_init(experiment, mesh)(), Window()
        reporter.say(weights.told)
        return step.start_from(experiment, mesh, weights), Window()
    number, state, data, means = found
    for name, rows in loaders.items():
        rows.restore(data[name])
    reporter.say(f'resuming from step {number}')
    return state, Window({name: Mean(*sums) for name, sums in means.items()})


def part_read(experiment: Experiment, held: Mapping[str, sharding.Held]) -> float:
    """The part of the data that this host reads."""
    return len(next(iter(held.values())).shards) / experiment.data_shards


def log(now: int, run: Run) -> dict[str, float]:
    """Writes the window's values and what the loaders counted."""
    counts = {name: rows.counts for name, rows in run.loaders.items()}
    values = run.window.close(now, counts, part_read(run.experiment, run.held))
    run.writer.write(now, values)
    run.reporter.update(now, values)
    return values


def log_term_norms(now: int, state, batches, run: Run) -> dict[str, float]:
    """Writes the gradient norm of each term on the batches just used, after their update."""
    with run.window.timing('eval'):
        norms = jax.device_get(run.term_norms(state, batches))
    values = {f'train/{name}': float(norm) for name, norm in norms.items()}
    run.writer.write(now, values)
    return values


def evaluate(now: int, params, due, run: Run) -> dict[str, float]:
    """Runs the evaluators that are due; numbers go to the metrics, samples to samples.jsonl."""
    values, samples = {}, []
    with run.window.timing('eval'):
        for name in due:
            for metric, value in run.evaluators[name](params):
                if isinstance(value, Sample):
                    samples.append(value)
                else:
                    values[f'eval/{metric}'] = value
        if hosts.is_first():
            write_evaluation(now, values, samples, run)
    return values


def write_evaluation(now: int, values: Mapping[str, float], samples, run: Run) -> None:
    with metrics.open_lines(run.folder / 'samples.jsonl') as file:
        for sample in samples:
            line = json.dumps({'step': now, **sample._asdict()}, ensure_ascii=False)
            file.write(line + '\n')
            run.reporter.say(f'  {sample.stream}: {sample.prompt!r} -> {sample.output!r}')
    if values:
        run.writer.write(now, values)
        shown = (f'{name.removeprefix("eval/")} {value:.4f}' for name, value in values.items())
        run.reporter.say('  eval: ' + '  '.join(shown))
    write_report(run.folder)


def save(now: int, state, run: Run, values: Mapping[str, float]) -> None:
    """Begins a checkpoint of parameters, data positions and the sums that are not logged yet."""
    run.window.flush()
    with run.window.timing('save'):
        data = {name: rows.state() for name, rows in run.loaders.items()}
        means = {name: [float(x) for x in mean] for name, mean in run.window.means.items()}
        run.checkpoints.save(now, state, data, means, values)
