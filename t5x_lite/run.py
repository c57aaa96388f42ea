"""A run's folder: whose it is, what is written down about it, and its evaluation later."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from t5x_lite import hosts, printing
from t5x_lite.errors import ConfigError, nearest
from t5x_lite.experiment import Experiment
from t5x_lite.sharding import AXES

IMPORTED = 'model.py'  # what an imported model's folder has in place of an experiment


def claim(folder: Path, experiment: Experiment, name: str) -> None:
    """Makes a run folder, or checks that the one there belongs to this experiment.

    Writes `experiment.py` (the resolved run, which can be run again) and `run.json`.

    Raises:
      ConfigError: the folder belongs to another experiment, or cannot be written.
    """
    source = printing.source(experiment)
    path = folder / 'experiment.py'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / IMPORTED).exists():
            raise ConfigError(
                f'--run {folder} holds an imported model; name another folder, and begin with '
                f'these weights by init=from_checkpoint({str(folder)!r})'
            )
        if path.exists():
            _check_owner(folder, _as_printed_now(path), experiment)
        _write(path, source)
        _write(folder / 'run.json', json.dumps(_facts(folder, experiment, name), indent=2))
    except OSError as error:
        raise ConfigError(f'--run {folder}: {error.strerror}; name a folder to write to') from error


def claim_together(folder: Path, experiment: Experiment, name: str) -> None:
    """`claim` by the first of several hosts for all; ConfigError if one cannot see the folder."""
    facts = folder / 'run.json'

    def first() -> str:
        claim(folder, experiment, name)
        return facts.read_text(encoding='utf-8')

    hosts.check_shared(facts, hosts.on_first('claim', first))


def _as_printed_now(path: Path) -> str:
    """A saved experiment's source with the fields, at their defaults, that were not there yet.

    As it stands if this version cannot read it: what differs is told then.
    """
    from t5x_lite import config

    try:
        return printing.source(config.load(path).experiment)
    except ConfigError:
        return path.read_text(encoding='utf-8')


def _check_owner(folder: Path, old: str, experiment: Experiment) -> None:
    lines = printing.difference(old, printing.source(experiment))
    if not lines:
        return
    if not any(saved.name.isdigit() for saved in folder.glob('checkpoints/*')):
        for name in ('metrics.jsonl', 'samples.jsonl'):  # a false start: nothing was saved
            (folder / name).unlink(missing_ok=True)
        return
    shown = '\n  '.join(lines[:12])
    raise ConfigError(
        f'--run {folder} belongs to another experiment:\n  {shown}\n'
        'name another folder, or give the config that the run was started with'
    )


def _write(path: Path, text: str) -> None:
    """All of the text or nothing, and nothing of the old lost on a full disk."""
    scratch = path.with_suffix('.new')
    scratch.write_text(text, encoding='utf-8')
    os.replace(scratch, path)


def _facts(folder: Path, experiment: Experiment, name: str) -> dict:
    """What the report says of a run that no metric says."""
    import jax

    from t5x_lite import step

    devices = jax.devices()
    shapes = jax.tree.leaves(step.abstract_model(experiment))
    old = folder / 'run.json'
    started = json.loads(old.read_text())['started'] if old.exists() else time.time()
    sizes = experiment.mesh.resolve(len(devices))
    return {
        'name': Path(name).stem,
        'started': started,
        'command': shlex.join(['t5x-lite', *sys.argv[1:]]),
        'parameters': sum(x.size for x in shapes),
        'devices': f'{len(devices)} x {devices[0].device_kind}',
        'mesh': dict(zip(AXES, sizes, strict=True)),
        'versions': {'python': sys.version.split()[0], 'jax': jax.__version__},
        'tokens_per_step': experiment.tokens_per_step,
        'steps': experiment.steps,
    }


def check_trained(folder: Path) -> None:
    """ConfigError unless the folder is that of a training run."""
    if (folder / 'experiment.py').exists():
        return
    if (folder / IMPORTED).exists():
        raise ConfigError(f'{folder}: is an imported model, that has no data and no training yet')
    raise ConfigError(f'{folder}: no run is there (experiment.py is missing)')


def evaluate(
    folder: Path,
    *,
    step: int | str | None,
    split: str,
    mixture: str | None = None,
    imports: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> Iterator[tuple[str, float]]:
    """(name, value) of every held-out loss of a run's checkpoint, on the whole of a split.

    Also of the scores of all other evaluators of the run, on that split where they have one, else
    on their own files. `step` is 'all' for every checkpoint, one after the other; each begins with
    ('step', its number).
    `mixture` (or 'STREAM=mixture') is read in place of the run's own; `imports` register it.
    """
    import jax

    from t5x_lite import config, sharding
    from t5x_lite import step as steps
    from t5x_lite.checkpoint import read_params, saved_steps
    from t5x_lite.evaluate import LossEval, Samples

    check_trained(folder)
    experiment = config.load(folder / 'experiment.py', overrides).experiment
    experiment = _reading(experiment, mixture, imports)
    experiment.check_devices(jax.device_count())
    mesh = sharding.make_mesh(experiment.mesh)
    like = steps.abstract_state(experiment, mesh).params
    evaluators = [LossEval(split=split, baseline=200)]
    for own in experiment.evals.values():
        if isinstance(own, LossEval | Samples):  # replaced above; gives no number
            continue
        on_split = {'split': split} if hasattr(own, 'split') else {}
        evaluators.append(dataclasses.replace(own, **on_split))
    opened = [evaluator.open(experiment, mesh) for evaluator in evaluators]
    chosen = saved_steps(folder / 'checkpoints') if step == 'all' else [_number(step)]
    for one in chosen:
        number, params = read_params(folder / 'checkpoints', one, like)
        yield 'step', number
        values = {}
        for name, value in itertools.chain.from_iterable(scores(params) for scores in opened):
            if name not in values:  # accuracy is a mean too
                yield name, value
            values[name] = value


def _number(step: int | str | None) -> int | None:
    if step is None or isinstance(step, int):
        return step
    if not step.isdigit():
        raise ConfigError(f"--step {step}: must be the number of a checkpoint, or 'all'")
    return int(step)


def _reading(experiment: Experiment, mixture: str | None, imports: Sequence[str]) -> Experiment:
    """The experiment with another mixture for one of its streams."""
    streams = dict(experiment.streams)
    if mixture is not None:
        stream, _, name = mixture.rpartition('=')
        if not stream and len(streams) > 1:
            raise ConfigError(
                f'--mixture {mixture}: there are several streams, {", ".join(streams)}; name one: '
                f'--mixture {next(iter(streams))}={mixture}'
            )
        stream = stream or next(iter(streams))
        if stream not in streams:
            raise ConfigError(f'--mixture: {stream!r} is no stream; {nearest(stream, streams)}')
        streams[stream] = dataclasses.replace(streams[stream], mixture=name, rates=None)
    return dataclasses.replace(experiment, streams=streams, imports=(*experiment.imports, *imports))
