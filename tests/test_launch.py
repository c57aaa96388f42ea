"""`launch`: commands of gcloud in their order, preemption, failures; manifests and scripts."""
# SPDX-License-Identifier: Apache-2.0

import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from t5x_lite import main, meeting, train
from t5x_lite.errors import ConfigError
from t5x_lite.launch import machines, manifests
from t5x_lite.launch.package import SCRIPT

CONFIG = """
from t5x_lite.experiment import Experiment, Stream
from t5x_lite.model.presets import decoder_mini
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.optim import Adafactor

stream = Stream(mixture='m', objective=causal_lm(), lengths={'targets': 32}, batch_size=16)
experiment = Experiment(
    model=decoder_mini(), streams={'clm': stream}, optimizer=Adafactor(), steps=9, data_shards=4
)
"""
# Answers from answers.json, a list for each verb; the last one is given again and again.
GCLOUD = """#!{python} -S
import json, os, signal, sys, time
folder, verb = os.path.dirname(os.path.abspath(__file__)), sys.argv[4]
with open(folder + '/calls.jsonl', 'a') as calls:
    calls.write(json.dumps(['gcloud', *sys.argv[1:]]) + '\\n')
if verb == 'ssh':
    command = next(a for a in sys.argv if a.startswith('--command='))
    verb = next(w for w in ('install', 'start', 'follow', 'status') if w in command)
with open(folder + '/answers.json') as file:
    answers = json.load(file)
mine = answers.get(verb, [[0, '', '']])
status, out, err = mine.pop(0) if len(mine) > 1 else mine[0]
with open(folder + '/answers.json', 'w') as file:
    json.dump(answers, file)
sys.stdout.write(out)
sys.stdout.flush()
sys.stderr.write(err)
if status == 'ctrl-c':
    os.kill(os.getppid(), signal.SIGINT)
    sys.exit(130)
sys.exit(status)
"""
ABSENT = [1, '', "ERROR: (gcloud) NOT_FOUND: Resource 'lm' was not found"]
ACTIVE = [0, 'ACTIVE\tv5litepod-16\n', '']
WAITING = [0, 'WAITING_FOR_RESOURCES\tv5litepod-16\n', '']
SUSPENDING = [0, 'SUSPENDING\tv5litepod-16\n', '']
SUSPENDED = [0, 'SUSPENDED\tv5litepod-16\n', '']
FINISHED = [0, 'step 9/9\nlaunch: ended 0\n', '']
LOST = [255, 'step 3/9\nstep 4/9\n', 'Connection closed']
TPU = ('launch', 'tpu', 'tiny.py', '--name', 'lm', '--type', 'v5e-16', '--zone', 'us-west4-a')
WORK = 'for i in {1..600}; do sleep 0.1; done'  # a minute, and signals are seen between
BEGIN = ['scp', 'install', 'start', 'follow']


class Cloud:
    """A folder in front of PATH with a gcloud that answers as told, and what it was called with."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / 'gcloud').write_text(GCLOUD.format(python=sys.executable))
        (folder / 'gcloud').chmod(0o755)
        self.answer()

    def answer(self, **answers) -> None:
        (self.folder / 'answers.json').write_text(json.dumps(answers))

    @property
    def calls(self) -> list[list[str]]:
        path = self.folder / 'calls.jsonl'
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def verbs(self) -> list[str]:
        """What was asked for, the questions about the state left out."""
        found = [verb_of(call) for call in self.calls]
        return [verb for verb in found if verb != 'describe']


def verb_of(call: list[str]) -> str:
    command = ''.join(word for word in call if word.startswith('--command='))
    own = [
        word for word in ('install', 'start', 'follow', 'status') if f'host.sh {word}' in command
    ]
    return own[0] if own else call[4]


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """A git repository with a config and a module of tasks, and the current folder in it."""
    root = tmp_path / 'tree'
    (root / 'sub').mkdir(parents=True)
    (root / 'sub/tiny.py').write_text(CONFIG)
    (root / 'sub/tracked.py').write_text('')
    (root / '.gitignore').write_text('*.secret\n')
    subprocess.run('git init -q && git add .', shell=True, cwd=root, check=True)
    (root / 'sub/my_tasks.py').write_text('"""Not tracked, but named."""')
    (root / 'sub/notes.txt').write_text('neither tracked nor named')
    (root / 'sub/key.secret').write_text('ignored')
    monkeypatch.chdir(root / 'sub')
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    monkeypatch.setattr('tempfile.tempdir', None)
    return root


@pytest.fixture
def cloud(tree, tmp_path, monkeypatch) -> Cloud:
    (tmp_path / 'bin').mkdir()
    monkeypatch.setenv('PATH', f'{tmp_path / "bin"}:{os.environ["PATH"]}')
    return Cloud(tmp_path / 'bin')


def launch(*options: str, run: str = 'gs://bucket/lm') -> None:
    main.main([*TPU, '--run', run, '--poll', '0.01', *options])


def failure(capsys, *arguments: str, status: int) -> str:
    with pytest.raises(SystemExit) as ended:
        main.main(list(arguments)) if arguments else launch()
    assert ended.value.code == status
    return capsys.readouterr().err


def test_a_new_tpu_is_made_waited_for_prepared_and_followed(cloud, capsys):
    cloud.answer(describe=[ABSENT, WAITING, WAITING, ACTIVE], follow=[FINISHED])
    launch()
    assert cloud.verbs == ['create', *BEGIN]
    create = cloud.calls[1]
    assert '--accelerator-type=v5litepod-16' in create
    assert '--runtime-version=v2-alpha-tpuv5-lite' in create and '--spot' not in create
    told = capsys.readouterr()
    assert told.out == 'step 9/9\n'
    assert 'lm is WAITING_FOR_RESOURCES' in told.err and 'queued-resources delete lm' in told.err


def test_dry_run_calls_nothing_and_prints_what_the_real_run_then_calls(cloud, capsys):
    options = ('--spot', '--project', 'my-project', '--set', "streams.clm.mixture='a b'")
    launch(*options, '--dry-run')
    lines = capsys.readouterr().out.splitlines()
    assert cloud.calls == []
    cloud.answer(describe=[ABSENT, ACTIVE], follow=[FINISHED])
    launch(*options)
    assert [shlex.split(line) for line in lines if not line.startswith('#')] == cloud.calls


def test_printed_commands_are_a_script_of_bash(cloud, capsys):
    launch('--dry-run')
    script = capsys.readouterr().out
    cloud.answer(describe=[ACTIVE], follow=[FINISHED])
    subprocess.run(['bash', '-e', '-c', script], check=True, capture_output=True)
    assert cloud.verbs == ['create', *BEGIN]


def test_a_tpu_that_is_there_is_taken(cloud):
    cloud.answer(describe=[ACTIVE], status=[[0, 'none\n', '']], follow=[FINISHED])
    launch()
    assert cloud.verbs == ['status', *BEGIN]


def test_a_run_that_is_going_is_followed_and_not_disturbed(cloud):
    cloud.answer(describe=[ACTIVE], status=[[0, 'running\n', '']], follow=[FINISHED])
    launch()
    assert cloud.verbs == ['status', 'follow']


def test_a_tpu_of_another_type_is_left_alone(cloud, capsys):
    cloud.answer(describe=[[0, 'ACTIVE\tv5litepod-8\n', '']])
    assert 'is there and is v5litepod-8, not v5litepod-16' in failure(capsys, status=2)
    assert cloud.verbs == []


def test_what_an_earlier_preemption_left_is_removed(cloud):
    cloud.answer(describe=[SUSPENDING, SUSPENDED, ABSENT, ACTIVE], follow=[FINISHED])
    launch()
    assert cloud.verbs == ['delete', 'create', *BEGIN]


def test_a_failing_create_is_one_message_with_gclouds_words(cloud, capsys):
    cloud.answer(describe=[ABSENT], create=[[1, '', 'ERROR: Quota exceeded for TPUS\n']])
    told = failure(capsys, status=1)
    assert told.count('error: ') == 1 and 'Quota exceeded for TPUS' in told
    assert 'remove it: gcloud compute tpus queued-resources delete lm --force' in told
    assert cloud.verbs == ['create']


def test_a_request_that_fails_is_not_made_again(cloud, capsys):
    cloud.answer(describe=[ABSENT, WAITING, [0, 'FAILED\n', '']])
    told = failure(capsys, status=1)
    assert 'lm: is FAILED; why: gcloud compute tpus queued-resources describe lm' in told
    assert 'queued-resources delete lm' in told
    assert cloud.verbs == ['create']


def test_after_a_preemption_it_is_made_again_and_the_run_resumes(cloud, capsys):
    gone = [ABSENT, ACTIVE, SUSPENDING, SUSPENDED, ABSENT, WAITING, ACTIVE]
    cloud.answer(describe=gone, follow=[LOST, FINISHED])
    launch('--spot')
    assert cloud.verbs == ['create', *BEGIN, 'delete', 'create', *BEGIN]
    assert all('--spot' in call for call in cloud.calls if verb_of(call) == 'create')
    starts = [call for call in cloud.calls if verb_of(call) == 'start']
    assert starts[0] == starts[1]
    assert capsys.readouterr().out == 'step 3/9\nstep 4/9\nstep 9/9\n'


def test_a_run_that_sigterm_ended_is_the_beginning_of_a_preemption(cloud):
    saved = [0, 'SIGTERM: saved step 4\nlaunch: ended 143\n', '']
    gone = [ABSENT, ACTIVE, ACTIVE, SUSPENDING, SUSPENDED, ABSENT, ACTIVE]
    cloud.answer(describe=gone, follow=[saved, FINISHED])
    launch()
    assert cloud.verbs == ['create', *BEGIN, 'delete', 'create', *BEGIN]


def test_a_run_that_somebody_stopped_is_not_started_again(cloud, capsys):
    cloud.answer(describe=[ABSENT, ACTIVE], follow=[[0, 'launch: ended 143\n', '']])
    launch()
    assert cloud.verbs == ['create', *BEGIN]
    assert 'stopped by SIGTERM and saved' in capsys.readouterr().err


def test_a_run_that_fails_is_not_started_again(cloud, capsys):
    cloud.answer(describe=[ABSENT, ACTIVE], follow=[[0, 'error: nan\nlaunch: ended 1\n', '']])
    told = failure(capsys, status=1)
    assert 'the run ended with status 1' in told and 'queued-resources delete lm' in told
    assert cloud.verbs == ['create', *BEGIN]


def test_a_lost_connection_goes_on_at_the_next_line(cloud, capsys):
    cloud.answer(describe=[ABSENT, ACTIVE], follow=[LOST, LOST, FINISHED])
    launch()
    follows = [word for call in cloud.calls for word in call if 'host.sh follow' in word]
    assert [word.rpartition(' ')[2] for word in follows] == ['1', '3', '5']
    assert cloud.verbs == ['create', *BEGIN, 'follow', 'follow']


def test_a_copy_that_fails_once_is_tried_again(cloud, capsys):
    refused = [1, '', 'ssh: connect to host port 22: Connection refused\n']
    cloud.answer(describe=[ABSENT, ACTIVE], scp=[refused, [0, '', '']], follow=[FINISHED])
    launch()
    assert cloud.verbs == ['create', 'scp', *BEGIN]
    assert 'copy failed (1 of 3): ssh: connect' in capsys.readouterr().err


def test_slices_that_gcloud_left_out_are_a_failure(cloud, capsys):
    left_out = [0, '', 'WARNING: Could not prepare all 2 nodes, attempting to ssh into the rest.\n']
    cloud.answer(describe=[ABSENT, ACTIVE], start=[left_out, [0, '', '']], follow=[FINISHED])
    launch()
    assert cloud.verbs == ['create', 'scp', 'install', 'start', 'start', 'follow']


def test_a_network_that_is_away_for_a_while_does_not_end_the_watch(cloud, capsys):
    away = [1, '', 'ERROR: Unable to find the server\n']
    cloud.answer(describe=[ABSENT, ACTIVE, *[away] * 9, ACTIVE], follow=[LOST, FINISHED])
    launch()
    assert cloud.verbs == ['create', *BEGIN, 'follow']


def test_a_state_that_cannot_be_asked_for_is_one_message_and_nothing_is_made(cloud, capsys):
    cloud.answer(describe=[[1, '', 'ERROR: PERMISSION_DENIED\n']])
    assert 'its state is not known: ERROR: PERMISSION_DENIED' in failure(capsys, status=1)
    assert cloud.verbs == []


def test_a_copy_that_never_works_says_what_is_left(cloud, capsys):
    cloud.answer(describe=[ABSENT, ACTIVE], scp=[[1, '', 'add your key: ssh-add\n']])
    told = failure(capsys, status=1)
    assert 'copy failed 3 times: add your key: ssh-add' in told
    assert 'queued-resources delete lm' in told
    assert cloud.verbs == ['create', 'scp', 'scp', 'scp']


def test_a_preemption_while_hosts_are_prepared_is_noticed(cloud):
    failed = [1, '', 'gone\n']
    states = [ABSENT, ACTIVE, SUSPENDED, SUSPENDED, ABSENT, ACTIVE]
    cloud.answer(describe=states, install=[failed, [0, '', '']], follow=[FINISHED])
    launch()
    assert cloud.verbs == ['create', 'scp', 'install', 'delete', 'create', *BEGIN]


def test_ctrl_c_leaves_the_run_and_says_how_to_come_back(cloud, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['t5x-lite', *TPU])
    # A shell that starts the tests in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cloud.answer(describe=[ABSENT, ACTIVE], follow=[['ctrl-c', 'step 1/9\n', '']])
    told = failure(capsys, status=130)
    assert cloud.verbs == ['create', *BEGIN]
    assert f'To come back: {shlex.join(["t5x-lite", *TPU])}' in told
    assert 'host.sh stop' in told and 'queued-resources delete lm' in told


def test_the_archive_has_tracked_and_named_files_alone(cloud, tree, tmp_path):
    launch('--dry-run', '--import', 'my_tasks', '--set', 'steps=3')
    archive = next(tmp_path.glob('t5x_lite_*/lm.tar.gz'))
    assert archive.parent.stat().st_mode & 0o077 == 0
    with tarfile.open(archive) as tar:
        names = set(tar.getnames())
        environment = tar.extractfile('job.env').read().decode()
    own = {name for name in names if name.startswith('tree/')}
    assert own == {f'tree/{f}' for f in ('.gitignore', 'sub/tiny.py', 'sub/tracked.py')} | {
        'tree/sub/my_tasks.py'
    }
    assert {'host.sh', 't5x_lite_source/setup.py', 't5x_lite_source/t5x_lite/main.py'} < names
    assert environment.splitlines() == [
        'BUCKET=bucket',
        'RUN=lm',
        'SOURCE=t5x_lite_source',
        'FOLDER=sub',
        'ARGUMENTS=(train tiny.py --set steps=3 --import my_tasks)',
    ]


def test_modules_that_the_config_itself_imports_go_along(cloud, tree, tmp_path):
    (tree / 'sub/tasks').mkdir()
    (tree / 'sub/tasks/mine.py').write_text('')
    text = CONFIG.replace('steps=9', "steps=9, imports=('tasks.mine', 't5x_lite.data.tasks.c4')")
    (tree / 'sub/tiny.py').write_text(text)
    launch('--dry-run')
    with tarfile.open(next(tmp_path.glob('t5x_lite_*/lm.tar.gz'))) as tar:
        assert 'tree/sub/tasks/mine.py' in tar.getnames()


def test_an_installed_module_is_for_hosts_that_are_told_to_install_it(cloud, tree):
    (tree / 'requirements.txt').write_text('pyyaml\n')
    launch('--dry-run', '--import', 'yaml')


def test_a_config_that_is_not_tracked_goes_along_and_an_absolute_name_is_made_relative(
    cloud, tree, tmp_path
):
    new = tree / 'sub/new.py'
    new.write_text(CONFIG)
    command = [str(new) if word == 'tiny.py' else word for word in TPU]
    main.main([*command, '--run', 'gs://bucket/lm', '--dry-run'])
    with tarfile.open(next(tmp_path.glob('t5x_lite_*/lm.tar.gz'))) as tar:
        assert 'tree/sub/new.py' in tar.getnames()
        assert 'ARGUMENTS=(train new.py)' in tar.extractfile('job.env').read().decode()


@pytest.mark.parametrize(
    'change, told',
    [
        (dict(set='streams.clm.batch_size=8'), "Stream 'clm': batch_size=8 must divide over"),
        (dict(set='data_shards=2'), 'data_shards=2 must be a multiple of the number of hosts 4'),
        (dict(set='model.embed=0'), 'embed'),
        (dict(type='v5e-17'), '--type=v5e-17: v5e has no slice of 17; nearest: v5e-16'),
        (dict(type='v9-8'), '--type=v9-8: is unknown'),
        (dict(type='gpu:h100:8'), '--type=gpu:h100:8: must be a TPU slice'),
        (dict(type='tpu7x-8'), '--type=tpu7x-8: is offered by GKE alone; use launch k8s'),
        (dict(run='runs/lm'), '--run runs/lm: is a folder on one disk, but each of 4 hosts'),
        (dict(run='s3://bucket/lm'), '--run s3://bucket/lm: only gs:// is known here'),
        (dict(run='gs://bucket'), '--run gs://bucket: must be a folder of a bucket; try gs://'),
        (dict(name='My run'), '--name My run: must be small letters'),
        (dict(import_='no_tasks'), '--import no_tasks: there is no such module'),
        (dict(import_='yaml'), '--import yaml: is installed here, but hosts get only'),
        (dict(tfds_data_dir='.'), '--tfds_data_dir=.: hosts in the cloud do not see this folder'),
    ],
)
def test_bad_input_is_one_message_before_anything_is_made(cloud, capsys, change, told):
    named = dict(name='lm', type='v5e-16', run='gs://bucket/lm') | change
    options = [word for name, value in named.items() for word in (f'--{name.strip("_")}', value)]
    error = failure(capsys, *TPU[:3], '--zone', 'us-west4-a', *options, status=2)
    assert error.startswith('error: ') and error.count('\n') == 1
    assert told in error and cloud.calls == []


def test_a_spot_tpu_needs_a_bucket_also_for_one_host(cloud, capsys):
    command = [word.replace('v5e-16', 'v5e-8') for word in TPU]
    assert 'a spot TPU takes its own with it' in failure(capsys, *command, '--spot', status=2)
    main.main([*command, '--dry-run'])


def test_outside_of_git_is_one_message(cloud, capsys, tmp_path, monkeypatch):
    (tmp_path / 'tiny.py').write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path.parent))
    assert 'is in no git repository' in failure(capsys, status=2)


@pytest.mark.parametrize(
    'name, hosts, chips, accelerator',
    [
        ('v5e-1', 1, 1, 'v5litepod-1'),
        ('v5e-8', 1, 8, 'v5litepod-8'),
        ('v5e-64', 16, 4, 'v5litepod-64'),
        ('v5litepod-16', 4, 4, 'v5litepod-16'),
        ('v6e-8', 1, 8, 'v6e-8'),
        ('v5p-8', 1, 4, 'v5p-8'),
        ('v5p-128', 16, 4, 'v5p-128'),
        ('v4-32', 4, 4, 'v4-32'),
        ('2xv5p-128', 16, 4, 'v5p-128'),
    ],
)
def test_hosts_chips_and_gclouds_name_of_a_type(name, hosts, chips, accelerator):
    machine = machines.find(name)
    found = machine.hosts, machine.chips_per_host, machine.accelerator_type
    assert found == (hosts, chips, accelerator)


def test_several_slices_are_one_resource(cloud, capsys):
    command = [word.replace('v5e-16', '2xv5e-8') for word in TPU]
    main.main([*command, '--run', 'gs://bucket/lm', '--dry-run'])
    create = next(line for line in capsys.readouterr().out.splitlines() if ' create ' in line)
    assert {'--node-count=2', '--node-prefix=lm', '--accelerator-type=v5litepod-8'} < set(
        shlex.split(create)
    )


class Host:
    """A folder as host.sh finds it on a host; the program `t5x-lite` there is a line of bash."""

    def __init__(self, folder: Path, program: str):
        self.folder = folder
        (folder / 'tree/sub').mkdir(parents=True)
        (folder / 'env/bin').mkdir(parents=True)
        (folder / 'env/bin/t5x-lite').write_text(f'#!/bin/bash\n{program}\n')
        (folder / 'env/bin/t5x-lite').chmod(0o755)
        (folder / 'host.sh').write_bytes(SCRIPT.read_bytes())
        (folder / 'job.env').write_text(
            "BUCKET=''\nRUN=runs/lm\nSOURCE=tree\nFOLDER=sub\nARGUMENTS=(train 'my config.gin')\n"
        )

    def __call__(self, *words: str, **environment: str) -> str:
        command = ['bash', str(self.folder / 'host.sh'), *words]
        how = dict(capture_output=True, text=True, timeout=60, check=True)
        return subprocess.run(command, **how, env={**os.environ, **environment}).stdout


def test_a_host_runs_the_command_in_its_folder_and_says_how_it_ended(tmp_path):
    host = Host(tmp_path / 'lm', 'printf "%s\\n" "${PWD##*/}" "$@"; exit 3')
    host('start')
    assert host('follow', '1').splitlines() == [
        *('sub', 'train', 'my config.gin', '--run', 'runs/lm'),
        'launch: ended 3',
    ]
    assert host('follow', '4').splitlines() == ['--run', 'runs/lm', 'launch: ended 3']
    assert host('status') == 'ended 3\n'


def test_a_host_stops_its_run_by_sigterm_and_does_not_take_it_for_finished(tmp_path):
    sleeping = 'trap "echo SIGTERM: saved step 7; exit 0" TERM; echo up; ' + WORK
    host = Host(tmp_path / 'lm', sleeping)
    host('start')
    log = tmp_path / 'lm/train.log'
    limit = time.monotonic() + 30
    while 'up' not in log.read_text() and time.monotonic() < limit:
        time.sleep(0.05)
    assert host('status') == 'running\n'
    host('stop')
    assert host('status') == 'ended 143\n'
    assert 'saved step 7' in log.read_text()


def test_a_host_mounts_the_bucket_and_installs_the_packed_source(tmp_path):
    host = Host(tmp_path / 'lm', 'true')
    bucket = (host.folder / 'job.env').read_text().replace("BUCKET=''", 'BUCKET=my-bucket')
    (host.folder / 'job.env').write_text(bucket)
    (tmp_path / '.local/bin').mkdir(parents=True)
    for name, status in dict(uv=0, gcsfuse=0, mountpoint=1).items():
        program = tmp_path / '.local/bin' / name
        program.write_text(f'#!/bin/bash\necho "{name} $*"\nexit {status}\n')
        program.chmod(0o755)
    lines = host('install', HOME=str(tmp_path)).splitlines()
    assert lines[0] == 'mountpoint -q bucket'
    assert lines[1].startswith('gcsfuse ') and lines[1].endswith(' my-bucket bucket')
    assert lines[2:] == [
        'uv venv --quiet --python 3.12 env',
        'uv pip install --quiet --python env/bin/python --editable ./tree[data,tpu]',
    ]
    assert (host.folder / 'bucket').is_dir()
    (host.folder / 'tree/requirements.txt').write_text('')
    own = (host.folder / 'job.env').read_text().replace('SOURCE=tree', 'SOURCE=t5x_lite_source')
    (host.folder / 'job.env').write_text(own)
    assert host('install', HOME=str(tmp_path)).splitlines()[-2:] == [
        'uv pip install --quiet --python env/bin/python --editable ./t5x_lite_source[data,tpu]',
        'uv pip install --quiet --python ../env/bin/python --requirement requirements.txt',
    ]


def test_the_host_looks_for_what_training_says_when_sigterm_ends_it():
    said = "f'SIGTERM: saved step {now}"
    assert said in Path(train.__file__).read_text()
    assert "'SIGTERM: saved step'" in SCRIPT.read_text()


def main_folder() -> Path:
    return Path(main.__file__).resolve().parents[1]


def k8s(capsys, *options: str, kind: str = 'v5e-16') -> dict:
    yaml = pytest.importorskip('yaml')
    where = ('--type', kind, '--image', 'gcr.io/p/t5x:1', '--run', 'gs://bucket/a/lm')
    main.main(['launch', 'k8s', 'tiny.py', '--name', 'lm', *where, *options])
    return yaml.safe_load(capsys.readouterr().out)


def parts(jobset: dict) -> tuple[dict, dict, dict, dict]:
    """The replicated job, its Job, its pod and its container."""
    replicated = jobset['spec']['replicatedJobs'][0]
    job = replicated['template']['spec']
    pod = job['template']['spec']
    return replicated, job, pod, pod['containers'][0]


@pytest.mark.parametrize(
    'kind, slices, hosts, chips, labels',
    [
        ('v5e-16', 1, 4, 4, ('tpu-v5-lite-podslice', '4x4')),
        ('v6e-8', 1, 1, 8, ('tpu-v6e-slice', '2x4')),
        ('2xv5p-32', 2, 4, 4, ('tpu-v5p-slice', '2x2x4')),
        ('tpu7x-16', 1, 2, 4, ('tpu7x', '2x2x2')),
    ],
)
def test_a_jobset_has_a_pod_for_each_host_with_all_its_chips(
    tree, capsys, kind, slices, hosts, chips, labels
):
    more = ('--set', 'streams.clm.batch_size=64', '--set', 'data_shards=8')
    jobset = k8s(capsys, *more, kind=kind)
    assert (jobset['apiVersion'], jobset['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
    replicated, job, pod, container = parts(jobset)
    assert replicated['replicas'] == slices
    assert (job['parallelism'], job['completions']) == (hosts, hosts)
    for which in ('requests', 'limits'):
        assert container['resources'][which] == {'google.com/tpu': chips}
    accelerator, shape = labels
    assert pod['nodeSelector'] == {
        'cloud.google.com/gke-tpu-accelerator': accelerator,
        'cloud.google.com/gke-tpu-topology': shape,
    }
    alone = '--processes 1' in container['args'][0]
    assert alone == (hosts * slices == 1)


def test_a_jobset_restarts_together_and_has_time_to_save(tree, capsys):
    jobset = k8s(capsys, '--spot')
    _, job, pod, container = parts(jobset)
    assert jobset['spec']['failurePolicy']['maxRestarts'] > 0 and job['backoffLimit'] == 0
    assert pod['restartPolicy'] == 'Never' and pod['terminationGracePeriodSeconds'] >= 300
    assert pod['nodeSelector']['cloud.google.com/gke-spot'] == 'true'
    attributes = pod['volumes'][0]['csi']['volumeAttributes']
    assert attributes['bucketName'] == 'bucket' and ' ' not in attributes['mountOptions']
    assert 'train tiny.py --run /bucket/a/lm &' in container['args'][0]
    subprocess.run(['bash', '-n', '-c', container['args'][0]], check=True)


def test_a_jobset_of_a_local_run_is_refused(tree, capsys):
    command = ['launch', 'k8s', 'tiny.py', '--name', 'lm', '--type', 'v5e-8', '--image', 'i']
    assert '--run runs/lm: is a folder on one disk' in failure(capsys, *command, status=2)


@pytest.mark.parametrize('program, ended', [('exit 0', 0), ('exit 3', 3)])
def test_the_guard_ends_as_its_command_does(program, ended):
    script = manifests.GUARD.format(command=f"bash -c '{program}'")
    assert subprocess.run(['bash', '-c', script]).returncode == ended


def test_the_guard_waits_for_a_run_that_saves_and_then_is_not_finished(tmp_path):
    saving = (
        f'trap "sleep 0.3; echo saved >{tmp_path}/saved; exit 0" TERM; echo up; sleep 60 & wait'
    )
    script = manifests.GUARD.format(command=shlex.join(['bash', '-c', saving]))
    with subprocess.Popen(['bash', '-c', script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == 'up\n'
        time.sleep(0.2)  # for the shell around it to come to its `wait`
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143
    assert (tmp_path / 'saved').read_text() == 'saved\n'


def slurm(capsys, *options: str) -> str:
    where = ('--nodes', '2', '--gpus', '8', '--run', '/shared/runs/lm')
    main.main(['launch', 'slurm', 'tiny.py', '--name', 'lm', *where, *options])
    return capsys.readouterr().out


def test_an_sbatch_script_has_a_task_on_each_node_and_is_queued_again(tree, capsys):
    script = slurm(capsys, '--sbatch=--partition=gpu', '--time', '4:00:00')
    subprocess.run(['bash', '-n'], input=script, text=True, check=True)
    told = [line.split(' ', 1)[1] for line in script.splitlines() if line.startswith('#SBATCH')]
    assert {
        *('--nodes=2', '--ntasks-per-node=1', '--gpus-per-node=8', '--time=4:00:00'),
        *('--requeue', '--signal=TERM@120', '--partition=gpu', '--job-name=lm'),
    } < set(told)
    assert 'JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7' in script and f'cd {Path.cwd()}' in script


def test_an_sbatch_script_trains_where_meeting_finds_slurm(tree, tmp_path, monkeypatch, capsys):
    """srun's stand-in has the environment of a task and prints what `t5x-lite` would see."""
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin/srun').write_text(
        '#!/bin/bash\nexport SLURM_NTASKS=2 SLURM_STEP_NODELIST="n[1-2]"\nshift\nexec "$@"\n'
    )
    (tmp_path / 'bin/python').write_text('#!/bin/bash\nenv; printf "argument %s\\n" "$@"; exit 143')
    (tmp_path / 'bin/scontrol').write_text('#!/bin/bash\necho "scontrol $*"\n')
    for file in (tmp_path / 'bin').iterdir():
        file.chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(tmp_path / 'bin/python'))
    environment = {'PATH': f'{tmp_path / "bin"}:{os.environ["PATH"]}', 'SLURM_JOB_ID': '7'}
    script = slurm(capsys)
    done = subprocess.run(
        ['bash'], input=script, text=True, capture_output=True, env=environment, timeout=30
    )
    lines = done.stdout.splitlines()
    seen = dict(line.split('=', 1) for line in lines if '=' in line)
    assert meeting.launcher(seen) == 'Slurm'
    arguments = [line.removeprefix('argument ') for line in lines if line.startswith('argument ')]
    assert arguments == ['-m', 't5x_lite', 'train', 'tiny.py', '--run', '/shared/runs/lm']
    assert 'scontrol requeue 7' in lines and done.returncode == 143


def test_pods_of_a_jobset_are_found_by_meeting():
    gke = {'TPU_WORKER_HOSTNAMES': 'lm-slice-0-0.lm,lm-slice-0-1.lm', 'JOB_COMPLETION_INDEX': '0'}
    assert meeting.launcher(gke | {'KUBERNETES_SERVICE_HOST': '10.0.0.1'}) == 'Cloud TPU'


def test_a_run_on_a_nodes_own_disk_is_refused_for_several_nodes(tree, capsys):
    where = ['launch', 'slurm', 'tiny.py', '--name', 'lm', '--gpus', '8', '--run', '/tmp/lm']
    told = failure(capsys, *where, '--nodes', '2', status=2)
    assert "--run /tmp/lm: /tmp is each node's own disk, but 2 nodes need one folder" in told
    told = failure(capsys, *where[:-1], 'gs://bucket/lm', status=2)
    assert 'must be a path on the file system that the nodes share' in told


def test_slurm_checks_the_batch_against_all_gpus(tree, capsys):
    where = ['launch', 'slurm', 'tiny.py', '--name', 'lm', '--run', '/shared/lm']
    told = failure(capsys, *where, '--nodes', '4', '--gpus', '8', status=2)
    assert "Stream 'clm': batch_size=16 must divide over" in told


@pytest.mark.parametrize('where', ['k8s', 'slurm'])
def test_the_document_shows_what_is_printed(where, capsys, monkeypatch):
    text = (main_folder() / 'docs/launch.md').read_text()
    command = text.split(f'$ t5x-lite launch {where} ')[1].partition(' > ')[0].replace('\\\n', ' ')
    shown = text.split({'k8s': '```yaml\n', 'slurm': '```bash\n'}[where])[1].partition('```')[0]
    monkeypatch.chdir(main_folder())
    monkeypatch.setattr(sys, 'executable', '/shared/t5x_lite/.venv/bin/python')
    main.main(['launch', where, *shlex.split(command)])
    printed = capsys.readouterr().out.replace(f'cd {main_folder()}', 'cd /shared/t5x_lite')
    assert printed == shown


def test_a_name_that_is_not_one_for_a_cloud_is_told_the_nearest():
    from t5x_lite.launch.job import Job

    with pytest.raises(ConfigError, match='try t5-1-1-large'):
        Job(name='T5_1.1-Large', arguments=(), run='runs/x', hosts=1)


# A host in a folder: gcloud copies and calls there, uv makes a program of the source it is given.
LOCAL = """#!{python}
import os, shutil, subprocess, sys
here = os.path.dirname(os.path.abspath(__file__))
home, verb = here + '/host', sys.argv[4]
command = [a.removeprefix('--command=') for a in sys.argv if a.startswith('--command=')]
if verb == 'describe' and not os.path.isdir(home):
    sys.exit('NOT_FOUND')
if verb == 'describe':
    print('ACTIVE')
if verb == 'create':
    os.mkdir(home)
if verb == 'scp':
    shutil.copy(sys.argv[5], home)
if verb == 'ssh':
    sys.exit(subprocess.run(['bash', '-c', command[0]], cwd=home).returncode)
"""
UV = """#!/bin/bash
if [ "$1" = venv ]; then mkdir -p env/bin; touch env/bin/python; chmod +x env/bin/python; exit; fi
source="$PWD/${{7%%[*}}"
[ -f "$source/setup.py" ] || exit 1
echo "#!/bin/bash
PYTHONPATH='$source' exec {python} -m t5x_lite \\"\\$@\\"" >env/bin/t5x-lite
chmod +x env/bin/t5x-lite
"""


@pytest.mark.all
def test_what_is_packed_trains_on_a_host_that_has_nothing_else(cloud, tree, tmp_path, capsys):
    for name, text in dict(gcloud=LOCAL, uv=UV).items():
        (cloud.folder / name).write_text(text.format(python=sys.executable))
        (cloud.folder / name).chmod(0o755)
    (tree / 'sub/my_tasks.py').write_text('import t5x_lite.data.tasks.corpus_en_pd\n')
    command = [word.replace('v5e-16', 'v5e-1') for word in TPU]
    sizes = dict(decoder_layers=1, embed=16, heads=2, mlp=32)
    changes = [f'model.{name}={size}' for name, size in sizes.items()]
    changes += ['steps=2', 'log_every=1', 'streams.clm.mixture=corpus_en_pd']
    change = (word for text in changes for word in ('--set', text))
    main.main([*command, *change, '--import', 'my_tasks', '--poll', '0.1'])
    assert 'step 2/2' in capsys.readouterr().out
    folder = cloud.folder / 'host/lm/tree/sub/runs/lm'
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    assert json.loads(lines[-1])['step'] == 2
