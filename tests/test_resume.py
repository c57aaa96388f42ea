"""A run that dies anywhere and is started again is the run that never died."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import dataclasses
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from t5x_lite import config, main, run, sharding, step, stopwatch, train
from t5x_lite.checkpoint import Checkpointer
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Checkpoints
from t5x_lite.model.backends import Flash
from t5x_lite.sharding import MeshShape

STEPS = 150
TIMEOUT = 120  # seconds that a process may take
pytestmark = pytest.mark.timeout(7 * TIMEOUT)  # the first test waits for all of them

EXPERIMENT = f"""
from t5x_lite.evaluate import LossEval
from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.model.presets import encoder_decoder_mini
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.objectives.mlm import mlm
from t5x_lite.optim import AdamW
from t5x_lite.schedules import Constant

sizes = dict(encoder_layers=1, decoder_layers=1, embed=32, heads=2, mlp=64, dropout=0.1)
rows = dict(lengths={{'targets': 32}}, batch_size=8)
experiment = Experiment(
    model=encoder_decoder_mini(**sizes),
    streams={{
        'mlm': Stream(mixture='corpus_en_pd', objective=mlm(), **rows),
        'clm': Stream(mixture='corpus_en_pd_mix', objective=causal_lm(), **rows),
    }},
    optimizer=AdamW(learning_rate=Constant(value=0.003)),
    steps={STEPS},
    log_every=5,
    checkpoint=Checkpoints(every=7, keep=3),
    evals={{'loss': LossEval(every=50, batches=1)}},
    imports=('t5x_lite.data.tasks.corpus_en_pd',),
)
"""


def environment(root: Path) -> dict[str, str]:
    """Of one device; processes that start again find their programs in a folder."""
    own = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
    own['JAX_COMPILATION_CACHE_DIR'] = str(root / 'compiled')
    own['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
    return own


def start(folder: Path, *options: str, file_size: int | None = None) -> subprocess.Popen:
    """`t5x-lite train` on one device, its output in a pipe; no file may pass `file_size` bytes."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    return subprocess.Popen(
        [sys.executable, '-m', 't5x_lite', 'train', str(folder.parent / 'tiny.py')]
        + ['--run', str(folder), *options],
        cwd=Path(main.__file__).parents[1],
        env=environment(folder.parent),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=limit if file_size else None,
    )


pytestmark = pytest.mark.timeout(900)  # the story is of six processes


class Ended(NamedTuple):
    status: int
    output: str


def end(process: subprocess.Popen) -> Ended:
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    return Ended(process.returncode, output)


def until(condition, process: subprocess.Popen) -> None:
    """Waits for a condition while the process lives."""
    limit = time.monotonic() + TIMEOUT
    while not condition():
        if process.poll() is not None or time.monotonic() > limit:
            raise AssertionError(f'it never came to that: {end(process)}')
        time.sleep(0.001)


def lines(folder: Path) -> list[dict]:
    """The whole lines of metrics.jsonl; a kill may have cut the last."""
    path = folder / 'metrics.jsonl'
    text = path.read_text() if path.exists() else ''
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith('\n')]


def logged(folder: Path, count: int):
    return lambda: len(lines(folder)) >= count


def saved(folder: Path) -> set[str]:
    return {p.name for p in folder.glob('checkpoints/*') if p.name.isdigit()}


def kill_while_saving(folder: Path, process: subprocess.Popen) -> int:
    """SIGKILL at a moment when a checkpoint, not the first, is half written; its step."""
    half_written = lambda: list(folder.glob('checkpoints/*.orbax-checkpoint-tmp*'))
    while True:
        until(lambda: saved(folder) and half_written(), process)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.05)  # until all its threads stand still
        half = half_written()
        if half:
            process.kill()
            return int(half[0].name.split('.')[0])
        process.send_signal(signal.SIGCONT)


class Story(NamedTuple):
    """What became of a run that died four times."""

    folder: Path
    killed: Ended
    half_saved: int
    killed_saving: Ended
    disk_full: Ended
    saved_before: set[str]
    saved_after: set[str]
    terminated: Ended
    last: Ended


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('resume')
    (root / 'tiny.py').write_text(EXPERIMENT)
    return root


@pytest.fixture(scope='module')
def whole(root) -> Path:
    """The folder of a run that nothing interrupted."""
    ended = end(start(root / 'whole'))
    assert ended.status == 0, ended.output
    return root / 'whole'


@pytest.fixture(scope='module')
def story(root) -> Story:
    folder = root / 'broken'
    seed = random.randrange(1000)
    print(f'random.Random({seed}) chooses when to kill')
    chance = random.Random(seed)
    process = start(folder, '--set', 'steps=50')
    until(logged(folder, chance.randint(2, 5)), process)
    time.sleep(chance.uniform(0, 0.2))
    process.kill()
    killed = end(process)

    process = start(folder)
    half_saved = kill_while_saving(folder, process)
    killed_saving = end(process)

    saved_before = saved(folder)
    disk_full = end(start(folder, file_size=1_000_000))
    saved_after = saved(folder)

    count = len(lines(folder))
    process = start(folder)
    until(logged(folder, count + chance.randint(18, 22)), process)
    process.terminate()
    terminated = end(process)
    last = end(start(folder))
    saves = disk_full, saved_before, saved_after
    return Story(folder, killed, half_saved, killed_saving, *saves, terminated, last)


def numbers(folder: Path) -> dict[tuple[int, str], set[float]]:
    """Every value that was ever written for a step, the times left out."""
    found = {}
    for line in lines(folder):
        for name, value in line.items():
            if name.startswith(('train/', 'eval/')):
                found.setdefault((line['step'], name), set()).add(value)
    return found


def final_state(folder: Path):
    experiment = config.load(folder / 'experiment.py').experiment
    mesh = sharding.make_mesh(experiment.mesh)
    checkpoints = Checkpointer(folder / 'checkpoints', Checkpoints())
    with contextlib.closing(checkpoints):
        number, state, *_ = checkpoints.restore(step.abstract_state(experiment, mesh))
    assert number == STEPS
    return state


def test_killed_run_writes_exactly_the_numbers_of_an_uninterrupted_one(whole, story):
    assert story.killed.status == story.killed_saving.status == -signal.SIGKILL
    assert story.last.status == 0, story.last.output
    expected = numbers(whole)
    assert {at for at, _ in expected} == {*range(5, STEPS + 1, 5)}
    assert numbers(story.folder) == expected
    assert all(len(values) == 1 for values in expected.values())


def test_killed_run_ends_with_exactly_the_state_of_an_uninterrupted_one(whole, story):
    expected, found = final_state(whole), final_state(story.folder)
    jax.tree.map(np.testing.assert_array_equal, expected, found)


def test_half_written_checkpoint_is_not_taken_and_the_one_before_is(story):
    assert str(story.half_saved) not in story.saved_before
    assert f'resuming from step {max(map(int, story.saved_before))}\n' in story.disk_full.output


def test_full_disk_ends_the_run_with_one_message_and_keeps_what_was_saved(story):
    status, output = story.disk_full
    assert status == 1, output
    assert 't5x_lite/main.py' not in output  # a traceback of ours; asyncio may show one of Orbax's
    [error] = [line for line in output.splitlines() if line.startswith('error: ')]
    assert f'saving to {story.folder / "checkpoints"} failed' in error and 'make room' in error
    assert story.saved_after == story.saved_before
    assert f'resuming from step {max(map(int, story.saved_after))}\n' in story.terminated.output


def test_sigterm_saves_the_step_and_exits_0(story):
    status, output = story.terminated
    assert status == 0, output
    assert 'wall clock of the run' in output
    said = next(line for line in output.splitlines() if line.startswith('SIGTERM: saved step '))
    saved = int(said.split()[3].rstrip(';'))
    assert saved < STEPS
    assert f'resuming from step {saved}\n' in story.last.output


def test_account_of_the_time_goes_on_through_kills_and_ends(whole, story):
    accounts = [
        stopwatch.last([line], stopwatch.ACCOUNT)
        for line in lines(story.folder)
        if stopwatch.ACCOUNT + 'start' in line
    ]
    walls = [sum(account.values()) for account in accounts]
    assert walls == sorted(walls)
    starts = {account['start'] for account in accounts}
    # Killed, killed while saving, ended by SIGTERM, at its end; a full disk may come before a line.
    assert len(starts) in (4, 5)
    assert max(starts) > accounts[0]['start'] + accounts[-1]['start'] / len(starts)
    assert all(min(account.values()) >= 0 for account in accounts)


def test_run_folder_is_left_with_whole_lines_and_the_planned_checkpoints(whole, story):
    for folder in (whole, story.folder):
        assert (folder / 'metrics.jsonl').read_text().endswith('\n')
        assert {p.name for p in (folder / 'checkpoints').iterdir()} == {'140', '147', '150'}


def refused(capsys, folder: Path, *options: str) -> str:
    """What the command line says when it refuses a run folder."""
    with pytest.raises(SystemExit) as raised:
        main.main(['train', str(folder.parent / 'tiny.py'), '--run', str(folder), *options])
    assert raised.value.code == 2
    output, error = capsys.readouterr()
    assert error.startswith('error: ') and error.count('error: ') == 1
    return error


def test_folder_of_another_experiment_is_refused_and_what_differs_is_named(whole, capsys):
    before = (whole / 'experiment.py').read_text()
    changes = ['--set', 'model.mlp=128', '--set', 'seed=3']
    error = refused(capsys, whole, *changes)
    assert 'model.mlp: 64 -> 128' in error and 'seed: 0 -> 3' in error
    assert 'steps' not in error and 'name another folder' in error
    assert (whole / 'experiment.py').read_text() == before


def test_run_folder_that_is_a_file_is_refused(root, capsys):
    (root / 'file').write_text('mine')
    assert '--run' in refused(capsys, root / 'file')
    assert (root / 'file').read_text() == 'mine'


@contextlib.contextmanager
def ordinary_user():
    """File permissions hold for this process, also where tests run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_run_folder_that_cannot_be_written_is_refused(root):
    experiment = config.load(root / 'tiny.py').experiment
    (root / 'locked').mkdir(mode=0o555)
    root.chmod(0o755)
    with ordinary_user(), pytest.raises(ConfigError, match='Permission denied; name a folder'):
        run.claim(root / 'locked', experiment, 'tiny.py')


def test_steps_and_what_is_logged_and_kept_may_change_between_restarts(root):
    experiment = config.load(root / 'tiny.py').experiment
    run.claim(root / 'changed', experiment, 'tiny.py')
    changes = dict(steps=500, log_every=1, evals={}, checkpoint=Checkpoints(every=3))
    changed = dataclasses.replace(experiment, **changes)
    run.claim(root / 'changed', changed, 'tiny.py')
    assert config.load(root / 'changed/experiment.py').experiment == changed


def test_a_run_saved_before_a_field_was_there_goes_on(root):
    experiment = config.load(root / 'tiny.py').experiment
    folder = root / 'older'
    run.claim(folder, experiment, 'tiny.py')
    (folder / 'checkpoints/3').mkdir(parents=True)
    path = folder / 'experiment.py'
    text = path.read_text()
    lines = [line for line in text.splitlines() if 'attention_cap=' not in line]
    assert len(lines) == len(text.splitlines()) - 1
    path.write_text('\n'.join(lines))
    run.claim(folder, experiment, 'tiny.py')
    assert path.read_text() == text
    faster = dataclasses.replace(experiment.model, attention=Flash(), remat='full', dropout=0.0)
    with pytest.raises(ConfigError) as refused:
        run.claim(folder, dataclasses.replace(experiment, model=faster), 'tiny.py')
    assert 'model.dropout: 0.1 -> 0.0' in str(refused.value)
    assert 'attention' not in str(refused.value) and 'remat' not in str(refused.value)


@pytest.mark.all
def test_on_another_mesh_the_run_goes_on_to_rounding(root):
    """Eight steps on data=8; the same, stopped after four and continued on fsdp=4, model=2."""
    experiment = config.load(root / 'tiny.py').experiment
    changes = dict(steps=8, log_every=1, checkpoint=Checkpoints(every=4))
    one = dataclasses.replace(experiment, mesh=MeshShape(data=8), **changes)
    other = dataclasses.replace(one, mesh=MeshShape(fsdp=4, model=2))

    def lines(name, *parts):
        for part in parts:
            run.claim(root / name, part, 'tiny.py')
            train.train(part, root / name)
        found = map(json.loads, (root / name / 'metrics.jsonl').read_text().splitlines())
        losses = lambda line: {k: v for k, v in line.items() if k.endswith('loss')}
        return {line['step']: losses(line) for line in found if 'train/loss' in line}

    whole = lines('one_mesh', one)
    moved = lines('two_meshes', dataclasses.replace(one, steps=4), other)
    assert len(whole) == 8 and whole.keys() == moved.keys()
    for step_, losses in whole.items():
        assert moved[step_] == pytest.approx(losses, rel=1e-5), step_
    assert any(whole[8][name] != moved[8][name] for name in whole[8])  # it was another mesh
