"""Several processes over loopback are one run: the same numbers, one writer, one end."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from t5x_lite import main, meeting, sharding
from t5x_lite.errors import ConfigError, RunError
from t5x_lite.evaluation.collection import Collection

TIMEOUT = 300  # seconds that the processes of one start may take
DEVICES = 4  # in all, however many processes share them
MORE = 7  # steps after the resume
pytestmark = pytest.mark.timeout(5 * TIMEOUT)  # the first test waits for several runs

EXPERIMENT = """
from t5x_lite.data import loader
from t5x_lite.evaluate import LossEval
from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.model.presets import encoder_decoder_mini
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.objectives.mlm import mlm
from t5x_lite.optim import AdamW
from t5x_lite.schedules import Constant
from t5x_lite.sharding import MeshShape

loader.SNAPSHOT_EVERY = 10  # so that positions are more than a number of batches
sizes = dict(encoder_layers=1, decoder_layers=1, embed=32, heads=4, mlp=64, dropout=0.1)
rows = dict(lengths={'targets': 32}, batch_size=8)
experiment = Experiment(
    model=encoder_decoder_mini(**sizes),
    streams={
        'mlm': Stream(mixture='corpus_en_pd', objective=mlm(), **rows),
        'clm': Stream(mixture='corpus_en_pd_mix', objective=causal_lm(), **rows),
    },
    optimizer=AdamW(learning_rate=Constant(value=0.003)),
    steps=12,
    log_every=3,
    checkpoint=Checkpoints(every=50, keep=3),
    data_shards=4,
    mesh=MeshShape(fsdp=4),
    evals={'loss': LossEval(every=6, batches=2)},
    imports=('t5x_lite.data.tasks.corpus_en_pd',),
)
"""

TENSOR_PARALLEL = """
import dataclasses

from t5x_lite.evaluate import Samples
from t5x_lite.retrieval import EmbedEval

experiment = dataclasses.replace(
    experiment,
    mesh=MeshShape(model=4),
    steps=6,
    term_norms_every=6,
    evals={
        'samples': Samples(count=2, prompt=4, length=4),
        'embed': EmbedEval(stream='mlm', pairs=16, length=16),
    },
)
"""


class Ended(NamedTuple):
    statuses: list[int]
    outputs: list[str]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        return one.getsockname()[1]


def launch(folder: Path, processes: int, command: list[str], *, devices=DEVICES):
    """The command in so many processes; what they say goes to files beside `folder`."""
    flags = f'--xla_force_host_platform_device_count={devices // processes}'
    coordinator, started = f'127.0.0.1:{free_port()}', []
    for i in range(processes):
        several = ['--coordinator', coordinator, '--process_id', str(i)]
        several += ['--processes', str(processes)]
        with open(output_file(folder, i), 'w') as output:
            started.append(
                subprocess.Popen(
                    [sys.executable, *command, *(several if processes > 1 else [])],
                    cwd=Path(main.__file__).parents[1],
                    env={**os.environ, 'XLA_FLAGS': flags},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
    return started


def output_file(folder: Path, process: int) -> Path:
    return folder.with_name(f'{folder.name}.{process}.txt')


def start(folder: Path, processes: int, *options: str, config: str = 'tiny.py'):
    config = str(folder.parent / config)
    command = ['-m', 't5x_lite', 'train', config, '--run', str(folder), *options]
    return launch(folder, processes, command)


def end(folder: Path, processes) -> Ended:
    limit = time.monotonic() + TIMEOUT
    try:
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, limit - time.monotonic()))
    finally:
        for process in processes:
            process.kill()
    outputs = [output_file(folder, i).read_text() for i in range(len(processes))]
    return Ended([process.wait() for process in processes], outputs)


def run(folder: Path, processes: int, *options: str, config: str = 'tiny.py') -> Path:
    ended = end(folder, start(folder, processes, *options, config=config))
    assert ended.statuses == [0] * processes, '\n'.join(ended.outputs)
    return folder


def lines(folder: Path) -> list[dict]:
    path = folder / 'metrics.jsonl'
    text = path.read_text() if path.exists() else ''
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith('\n')]


def saved(folder: Path) -> set[int]:
    return {int(p.name) for p in folder.glob('checkpoints/*') if p.name.isdigit()}


def numbers(
    folder: Path, kinds: tuple[str, ...] = ('train/', 'eval/', 'data/')
) -> dict[tuple[int, str], float]:
    return {
        (line['step'], name): value
        for line in lines(folder)
        for name, value in line.items()
        if name.startswith(kinds)
    }


def assert_same(found: Path, expected: Path, *, first: int, last: int, rtol: float) -> None:
    """All values of the steps from `first` to `last`, names included.

    After a resume without those of data/: its counts begin with the process. The norm of a gradient
    is no loss: it adds all parameters' squares in another order, and may be 10 times as far off.
    """
    kinds = ('train/', 'eval/', 'data/') if first == 1 else ('train/', 'eval/')
    within = lambda values: {k: v for k, v in values.items() if first <= k[0] <= last}
    found, expected = within(numbers(found, kinds)), within(numbers(expected, kinds))
    assert found.keys() == expected.keys() and len(found) > 20
    for at, value in expected.items():
        wide = 10 if at[1].endswith('grad_norm') else 1
        assert found[at] == pytest.approx(value, rel=wide * rtol, abs=1e-7), at


class Story(NamedTuple):
    """Two processes, of which one gets SIGTERM; then the rest by one and by two, and without it."""

    ended: Ended
    stopped: int
    folder: Path
    by_one: Path
    by_two: Path
    whole: Path


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('hosts')
    (root / 'tiny.py').write_text(EXPERIMENT)
    (root / 'parallel.py').write_text(EXPERIMENT + TENSOR_PARALLEL)
    return root


@pytest.fixture(scope='module')
def story(root) -> Story:
    folder = root / 'stopped'
    processes = start(folder, 2, '--set', 'steps=4000')
    limit = time.monotonic() + TIMEOUT
    while len(lines(folder)) < 6 and time.monotonic() < limit and not dead(processes):
        time.sleep(0.01)
    processes[1].terminate()
    ended = end(folder, processes)
    assert ended.statuses == [0, 0], '\n'.join(ended.outputs)
    [stopped] = [step for step in saved(folder) if step % 50] or [max(saved(folder))]
    by_one, by_two = (shutil.copytree(folder, root / f'by_{n}') for n in ('one', 'two'))
    steps = f'steps={stopped + MORE}'
    whole = run(root / 'whole', 1, '--set', steps)
    run(by_one, 1, '--set', steps)
    run(by_two, 2, '--set', steps)
    return Story(ended, stopped, folder, by_one, by_two, whole)


def dead(processes) -> bool:
    return any(process.poll() is not None for process in processes)


@pytest.mark.all
def test_two_processes_give_the_numbers_of_one(story):
    assert_same(story.folder, story.whole, first=1, last=story.stopped, rtol=1e-6)
    names = {name for _, name in numbers(story.folder)}
    assert {'train/mlm/loss', 'eval/clm/loss', 'data/clm/dropped'} <= names


@pytest.mark.all
def test_sigterm_to_one_process_ends_both_with_the_same_step_saved(story):
    assert f'SIGTERM: saved step {story.stopped};' in story.ended.outputs[0]
    assert 'saved step' not in story.ended.outputs[1]
    files = sorted(p.name for p in story.folder.glob(f'checkpoints/{story.stopped}/data/*.npz'))
    assert files == ['host_0.npz', 'host_1.npz']


@pytest.mark.all
def test_resumed_on_one_process_or_on_two_it_is_the_run_that_was_not_stopped(story):
    last = story.stopped + MORE
    for folder in (story.by_two, story.by_one):
        assert saved(folder) >= {last}
        assert_same(folder, story.whole, first=story.stopped + 1, last=last, rtol=1e-6)


@pytest.mark.all
def test_one_process_writes_and_the_others_are_quiet(story):
    steps = [line['step'] for line in lines(story.folder) if 'train/loss' in line]
    assert steps == sorted(set(steps))
    assert len(list(story.folder.glob('tensorboard/*'))) == 1
    said = [[x for x in out.splitlines() if 'step ' in x] for out in story.ended.outputs]
    assert said[0] and not said[1]


@pytest.mark.all
def test_each_host_s_wait_for_data_is_in_the_metrics(story):
    line = next(line for line in lines(story.folder) if 'train/loss' in line)
    waits = [line['perf/data_wait_share/0'], line['perf/data_wait_share/1']]
    assert line['perf/data_wait_share'] == max(waits) > 0
    assert line['perf/data_wait_host'] == waits.index(max(waits))


@pytest.mark.all
def test_hosts_that_hold_the_same_rows_give_the_numbers_of_one(root):
    """Tensor parallelism over all devices: both hosts read every row."""
    two, one = (run(root / f'parallel_{n}', n, config='parallel.py') for n in (2, 1))
    assert_same(two, one, first=1, last=6, rtol=1e-5)
    names = {name for _, name in numbers(two)}
    assert {'train/mlm/grad_norm', 'eval/mlm/mrr', 'data/clm/unscored_rows'} <= names
    samples = [(folder / 'samples.jsonl').read_text() for folder in (two, one)]
    assert samples[0] == samples[1] and samples[0].count('\n') == 2


@pytest.mark.all
def test_four_processes_give_the_numbers_of_one(root, story):
    four = run(root / 'four', 4)
    assert_same(four, story.whole, first=1, last=9, rtol=1e-6)


@pytest.mark.all
def test_eval_of_two_processes_prints_the_numbers_of_one(root, story):
    said = []
    for count in (1, 2):
        folder = root / f'eval_{count}'
        ended = end(folder, launch(folder, count, ['-m', 't5x_lite', 'eval', str(story.folder)]))
        assert ended.statuses == [0] * count, '\n'.join(ended.outputs)
        text = [x for x in ended.outputs[0].splitlines() if x.startswith(('step', 'mlm', 'clm'))]
        said.append(dict(x.split() for x in text))
        assert not any('loss' in x for x in ended.outputs[1:])
    assert said[0] == said[1] and len(said[0]) > 5


@pytest.mark.all
def test_a_step_that_one_host_alone_cannot_read_is_passed_over_by_all(root):
    options = ['--set', 'checkpoint.every=6']
    folder = run(root / 'damaged', 2, *options)
    losses = lambda: numbers(folder, ('train/', 'eval/'))  # counts of data begin with a process
    before = losses()
    for file in (folder / 'checkpoints/12/state/ocdbt.process_1/d').iterdir():
        file.write_bytes(b'')
    ended = end(root / 'look', launch(root / 'look', 2, ['-m', 't5x_lite', 'eval', str(folder)]))
    assert ended.statuses == [0, 0], ended.outputs
    assert 'step 6' in ended.outputs[0].splitlines()
    run(folder, 2, *options)
    assert saved(folder) == {6, 12} and losses() == before
    said = [output_file(folder, i).read_text() for i in range(2)]
    assert any('step 12' in text for text in said)


@pytest.mark.all
def test_error_before_training_ends_all_with_one_message_each(root):
    folder = root / 'odd'
    ended = end(folder, start(folder, 2, '--set', 'data_shards=1'))
    assert set(ended.statuses) <= {2, -signal.SIGABRT} and ended.statuses[0] == 2, ended.outputs
    assert (
        'error: Experiment: data_shards=1 must be a multiple of the number of hosts 2; try 2'
        in (ended.outputs[0])
    )


VECTORS = """
import contextlib, json, sys
from pathlib import Path

flags = dict(zip(sys.argv[2::2], sys.argv[3::2]))
folder, own = Path(sys.argv[1]), int(flags.get('--process_id', 0))
sys.path.append(str(folder.parent))
from t5x_lite import hosts

several = contextlib.nullcontext()
if flags:
    count = int(flags['--processes'])
    several = hosts.started(flags['--coordinator'], own, count, patience=60)
with several:
    import dataclasses
    from t5x_lite import sharding, step
    from t5x_lite.evaluation.search import SearchEval
    from t5x_lite.evaluation.similarity import SimilarityEval
    from tiny import experiment

    data = str(folder.parent / 'texts')
    common = dict(stream='mlm', length=16, batch_size=8)
    evals = {
        'search': SearchEval(folder=data, recall=(1, 3), **common),
        'similarity': SimilarityEval(file=f'{data}/pairs.tsv', **common),
    }
    run = dataclasses.replace(experiment, evals=evals)
    mesh = sharding.make_mesh(run.mesh)
    params = step.make_init(run, mesh)().params
    found = {}
    for evaluator in evals.values():
        found |= dict(evaluator.open(run, mesh)(params))
    Path(sys.argv[1] + f'.{own}.json').write_text(json.dumps(found))
"""


@pytest.mark.all
def test_vectors_of_texts_are_scored_alike_by_one_process_and_by_two(root):
    """11 queries and 13 documents in batches of 8 rows, over 4 devices of one host or of two."""
    words = 'dark night house river table letter garden sister window morning horse'.split()
    text = lambda i: f'The {words[i % 11]} and the {words[(i * i + 3) % 11]}'
    documents = {f'd{i}': text(i) for i in range(13)}
    queries = {f'q{i}': text(i + 2) for i in range(11)}
    grades = {f'q{i}': {f'd{i}': 1, f'd{i + 2}': 2} for i in range(11)}
    Collection(queries, documents, grades).write(root / 'texts')
    pairs = [f'{text(i)}\t{text(2 * i)}\t{i % 4}' for i in range(11)]
    table = '\n'.join(['sentence1\tsentence2\tscore', *pairs])
    (root / 'texts/pairs.tsv').write_text(table)
    (root / 'vectors.py').write_text(VECTORS)
    found = []
    for count in (1, 2):
        folder = root / f'vectors_{count}'
        ended = end(folder, launch(folder, count, [str(root / 'vectors.py'), str(folder)]))
        assert ended.statuses == [0] * count, '\n'.join(ended.outputs)
        names = [f'{folder.name}.{i}.json' for i in range(count)]
        found += [json.loads((root / name).read_text()) for name in names]
    assert found[1] == found[2] == pytest.approx(found[0], abs=1e-6)
    assert 0 < found[0]['mlm/texts/ndcg_at_10'] < 1 and 'mlm/pairs/spearman' in found[0]


HELPERS = """
import json, sys, time
from pathlib import Path
from t5x_lite import hosts
from t5x_lite.errors import ConfigError

flags = dict(zip(sys.argv[2::2], sys.argv[3::2]))
own, said, found = int(flags['--process_id']), [], {}

def refused():
    raise ConfigError('no such folder')

with hosts.started(flags['--coordinator'], own, int(flags['--processes']), patience=60):
    found['gathered'] = [hosts.gather(f'a/{i}', {'n': own + i}) for i in range(3)]
    found['first'] = hosts.on_first('name', lambda: f'from {own}')
    try:
        hosts.on_first('bad', refused)
    except ConfigError as error:
        found['refused'] = str(error)
    hosts.barrier('here')
    with hosts.watching(said.append, patience=0.5):
        if own == 1:
            hosts.stage('compiles')
            time.sleep(2)
        hosts.stage(hosts.FIRST_STEP)
        hosts.barrier('both')
        time.sleep(1)
    found['said'] = said
    Path(sys.argv[1] + f'.{own}.json').write_text(json.dumps(found))
    if own == 1 and 'die' in sys.argv[1]:
        raise ValueError('mine alone')
    if 'die' in sys.argv[1]:
        hosts.barrier('never')
"""


@pytest.fixture(scope='module')
def helped(root) -> list[dict]:
    (root / 'helpers.py').write_text(HELPERS)
    folder = root / 'helped'
    ended = end(folder, launch(folder, 2, [str(root / 'helpers.py'), str(folder)]))
    assert ended.statuses == [0, 0], '\n'.join(ended.outputs)
    return [json.loads(folder.with_name(f'helped.{i}.json').read_text()) for i in (0, 1)]


@pytest.mark.all
def test_values_are_gathered_on_the_first_host_in_order(helped):
    assert helped[0]['gathered'] == [[{'n': i}, {'n': i + 1}] for i in range(3)]
    assert helped[1]['gathered'] == [[{'n': i + 1}] for i in range(3)]


@pytest.mark.all
def test_what_the_first_host_does_or_refuses_is_told_to_all(helped):
    for found in helped:
        assert found['first'] == 'from 0' and found['refused'] == 'no such folder'


@pytest.mark.all
def test_host_that_has_not_arrived_at_the_first_step_is_named(helped):
    said = helped[0]['said']
    assert 2 <= len(said) <= 5 and helped[1]['said'] == []
    assert all('not at the first step: host 1 (' in x and 'host 0' not in x for x in said[1:])
    assert said[1].endswith(f'{socket.gethostname()} compiles)')


@pytest.mark.all  # a barrier notices in 100 s that a process is gone; a collective at once
def test_host_that_fails_alone_ends_at_once_and_the_other_is_told(root, helped):
    folder = root / 'die'
    began = time.monotonic()
    ended = end(folder, launch(folder, 2, [str(root / 'helpers.py'), str(folder)]))
    assert ended.statuses[1] == 1 and 'ValueError: mine alone' in ended.outputs[1]
    assert ended.statuses[0] != 0 and time.monotonic() - began < 140


def refused(*flags, patience=1.0) -> str:
    with pytest.raises((ConfigError, RunError)) as raised:
        meeting.start(*flags, patience)
    return str(raised.value)


def test_half_of_the_flags_is_refused_and_what_is_missing_is_named():
    assert '--process_id, --processes: missing' in refused('a:1', None, None)
    assert '--coordinator: missing' in refused(None, 0, 2)
    assert '--coordinator, --process_id: missing' in refused(None, None, 2)


def test_flags_that_do_not_fit_are_refused():
    assert '--coordinator machine: must be HOST:PORT; try machine:8476' in refused('machine', 0, 2)
    assert '--process_id 2: must be 0 to 1' in refused('a:1', 2, 2)
    assert '--process_id -1: must be 0 to 1' in refused('a:1', -1, 2)


def test_coordinator_that_does_not_answer_is_one_message():
    coordinator = f'127.0.0.1:{free_port()}'
    told = refused(coordinator, 1, 2, patience=0.5)
    assert told.startswith(f'--coordinator {coordinator}: no answer in 0.5 s')
    assert '--process_id 0' in told


def test_first_host_that_is_left_alone_says_so(root):
    folder = root / 'alone'
    flags = ['--coordinator', f'127.0.0.1:{free_port()}', '--process_id', '0', '--processes', '2']
    command = ['-m', 't5x_lite', 'train', str(root / 'tiny.py'), '--run', str(folder), *flags]
    ended = end(folder, launch(folder, 1, [*command, '--patience', '1']))
    assert ended.statuses == [1]
    errors = [x for x in ended.outputs[0].splitlines() if x.startswith('error: ')]
    assert len(errors) == 1 and 'did not come together in 1 s' in errors[0]


SLURM = {'SLURM_NTASKS': '4', 'SLURM_STEP_NODELIST': 'n[1-4]', 'JAX_PLATFORMS': 'cpu'}


@pytest.mark.parametrize(
    ('environment', 'launcher'),
    [
        ({}, None),
        (SLURM, 'Slurm'),
        (SLURM | {'SLURM_NTASKS': '1'}, None),
        ({'SLURM_NTASKS': '4'}, None),  # the batch script itself, not a task of srun
        ({'OMPI_COMM_WORLD_SIZE': '2'}, 'Open MPI'),
        ({'OMPI_COMM_WORLD_SIZE': '1'}, None),
        ({'TPU_WORKER_HOSTNAMES': 'a,b'}, 'Cloud TPU'),
        ({'TPU_WORKER_HOSTNAMES': 'localhost'}, None),
        ({'TPU_WORKER_HOSTNAMES': 'a,b', 'JAX_PLATFORMS': 'cpu'}, None),
        ({'MEGASCALE_NUM_SLICES': '2'}, 'Cloud TPU'),
        ({'KUBERNETES_SERVICE_HOST': '10.0.0.1', 'JOB_COMPLETION_INDEX': '0'}, 'Kubernetes'),
        ({'KUBERNETES_SERVICE_HOST': '10.0.0.1'}, None),
    ],
)
def test_launchers_are_found_by_their_environment(environment, launcher):
    assert meeting.launcher(environment) == launcher


@pytest.mark.parametrize('shape', [dict(fsdp=4, model=2), dict(data=2, fsdp=4), dict(model=8)])
def test_rows_that_a_host_holds_cover_its_devices_whole_shards(shape):
    mesh = sharding.make_mesh(sharding.MeshShape(**shape))
    held = sharding.held(16, 4, mesh)
    assert held.shards == (0, 1, 2, 3) and held.row_R.tolist() == list(range(16))


def test_devices_of_a_host_that_are_not_in_a_row_get_their_rows():
    own = sharding.Held((1, 3), np.array([2, 3, 6, 7]), 8)  # shards of two rows
    x_RxL = np.arange(8).reshape(4, 2)
    assert own.part(x_RxL, (slice(3, 4), slice(None))).tolist() == [[2, 3]]
    assert own.part(x_RxL, (slice(6, 8), slice(0, 1))).tolist() == [[4], [6]]
    assert own.part(x_RxL[:, 0], (slice(2, 4),)).tolist() == [0, 2]
