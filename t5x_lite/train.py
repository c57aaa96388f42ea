"""The training run: step, log, evaluate, save, and an account of its time."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

import jax

from t5x_lite import hosts, metrics
from t5x_lite.beginning import Run, begin, part_read, start
from t5x_lite.evaluate import Sample
from t5x_lite.experiment import Experiment
from t5x_lite.progress import Reporter
from t5x_lite.report import write_report
from t5x_lite.stopwatch import START, Stopwatch, table


def train(
    experiment: Experiment,
    folder: Path,
    *,
    wandb: bool = False,
    patience: float = hosts.PATIENCE,
    clock: Stopwatch | None = None,
) -> dict[str, float]:
    """Trains to `experiment.steps`, from the folder's newest checkpoint if it has one.

    Writes metrics.jsonl, samples.jsonl, checkpoints/, tensorboard/ and report.html, and returns
    the last value of every metric. SIGTERM ends it early with a checkpoint. Of several hosts all
    call this; the first one writes, names those that are not at the first step after `patience`
    seconds, and SIGTERM to any ends all at the same step. `clock` is one that began before this.

    Raises:
      ConfigError: devices, data or vocabulary do not fit the experiment.
      RunError: the loss is not finite, or a checkpoint cannot be written or read.
    """
    latest, clock = {}, clock or Stopwatch()
    with contextlib.ExitStack() as stack:
        stopping = stack.enter_context(hosts.stopping())
        reporter = Reporter(experiment.steps, quiet=not hosts.is_first())
        stack.enter_context(hosts.watching(reporter.say, patience))
        run = start(experiment, folder, stack, reporter, wandb, clock)
        state, window, now = run.state, run.window, int(run.state.step)
        first = now + 1
        run = run._replace(state=None)  # its arrays are given to the first step
        for now in range(first, experiment.steps + 1):
            batches = next_batches(run)
            if now == first:
                begin('step', clock)
            state, means = run.train_step(state, batches)
            for rows in run.loaders.values():
                rows.prefetch()
            window.push(means)  # fetches the step before this one, while this one runs
            values, ended = {}, now == experiment.steps
            if now == first:
                values |= started(now, run)
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
        latest |= finish(now, run)
    if hosts.is_first():
        write_report(folder)
    return latest


def next_batches(run: Run) -> dict:
    """The next batch of every stream, on the mesh."""
    with run.clock.timing('data'):
        return {name: next(rows) for name, rows in run.loaders.items()}


def started(now: int, run: Run) -> dict[str, float]:
    """After the first step: what of the start took how long."""
    run.window.flush()
    stages = run.clock.stages()
    run.clock.begin('step')
    run.reporter.started(now, stages, run.beside)
    values = {START + name: seconds for name, seconds in stages.items()}
    values[START + 'data_in_thread'] = run.beside  # no stage: beside those before `data`
    run.writer.write(now, values)
    return values


def log(now: int, run: Run) -> dict[str, float]:
    """Writes the window's values, what the loaders counted, and where the time went so far."""
    with run.clock.timing('rest'):
        counts = {name: rows.counts for name, rows in run.loaders.items()}
        values = run.window.close(now, counts, part_read(run.experiment, run.held))
        values |= run.clock.metrics()
        run.writer.write(now, values)
        run.reporter.update(now, values)
    return values


def finish(now: int, run: Run) -> dict[str, float]:
    """Waits until all is saved; writes and says where the time of the run went."""
    run.clock.begin('rest')
    with run.clock.timing('save'):
        run.checkpoints.wait()
    for rows in run.loaders.values():
        rows.close()
    for line in table(run.clock.account()):
        run.reporter.say(line)
    values = run.clock.metrics()
    run.writer.write(now, values)
    return values


def log_term_norms(now: int, state, batches, run: Run) -> dict[str, float]:
    """Writes the gradient norm of each term on the batches just used, after their update."""
    with run.clock.timing('eval'):
        norms = jax.device_get(run.term_norms(state, batches))
    values = {f'train/{name}': float(norm) for name, norm in norms.items()}
    run.writer.write(now, values)
    return values


def evaluate(now: int, params, due, run: Run) -> dict[str, float]:
    """Runs the evaluators that are due; numbers go to the metrics, samples to samples.jsonl."""
    values, samples = {}, []
    with run.clock.timing('eval'):
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
    with run.clock.timing('save'):
        data = {name: rows.state() for name, rows in run.loaders.items()}
        means = {name: [float(x) for x in mean] for name, mean in run.window.means.items()}
        run.checkpoints.save(now, state, data, means, values)
