"""A run's folder: whose it is, what is written down about it, and its evaluation later."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from t5x_lite import hosts, printing
from t5x_lite.errors import ConfigError
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
            _check_owner(folder, path.read_text(encoding='utf-8'), experiment)
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
    folder: Path, *, step: int | None, split: str, overrides: Sequence[str] = ()
) -> Iterator[tuple[str, float]]:
    """(name, value) of every held-out loss of a run's checkpoint, on the whole of a split.

    Also of the scores that the run's own PredictEval and DecodeEval give, on that split.
    """
    import jax

    from t5x_lite import config, sharding
    from t5x_lite import step as steps
    from t5x_lite.checkpoint import read_params
    from t5x_lite.evaluate import LossEval
    from t5x_lite.evaluation.decoded import DecodeEval
    from t5x_lite.evaluation.predict import PredictEval

    check_trained(folder)
    experiment = config.load(folder / 'experiment.py', overrides).experiment
    experiment.check_devices(jax.device_count())
    mesh = sharding.make_mesh(experiment.mesh)
    like = steps.abstract_state(experiment, mesh).params
    number, params = read_params(folder / 'checkpoints', step, like)
    yield 'step', number
    evaluators = [LossEval(split=split, baseline=200)]
    for own in experiment.evals.values():
        if isinstance(own, PredictEval | DecodeEval):
            evaluators.append(dataclasses.replace(own, split=split))
    told = set()
    for evaluator in evaluators:
        for name, value in evaluator.open(experiment, mesh)(params):
            if name not in told:  # accuracy is a mean too
                yield name, value
            told.add(name)
