"""The command line: output, exit status, T5X's flags, one message for bad input, no TensorFlow."""
# SPDX-License-Identifier: Apache-2.0

import resource
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from t5x_lite import config, main, printing, run

PROJECT = Path(__file__).resolve().parent.parent
CLM = 'configs/runs/clm_mini.gin'
DEVICES = jax.device_count()


@pytest.fixture(autouse=True)
def in_project(monkeypatch):
    monkeypatch.chdir(PROJECT)


@pytest.fixture
def no_tensorflow(monkeypatch):
    """Importing TensorFlow or seqio fails."""
    for name in ('tensorflow', 'seqio'):
        monkeypatch.setitem(sys.modules, name, None)


def status(*arguments) -> int:
    with pytest.raises(SystemExit) as ended:
        main.main(list(arguments))
    return ended.value.code


def test_help_names_every_command(capsys):
    assert status('--help') == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ('train', 'eval', 'config', 'report', 'data'))
    assert status('train', '--help') == 0
    out = capsys.readouterr().out
    assert all(flag in out for flag in ('--run', '--set', '--smoke', '--import', '--gin_file'))


def test_config_prints_a_source_that_is_the_experiment(capsys, no_tensorflow):
    main.main(['config', CLM, '--set', 'model.dropout=0.1'])
    names = {}
    exec(capsys.readouterr().out, names)
    assert names['experiment'] == config.load(CLM, ['model.dropout=0.1']).experiment


def test_flags_as_t5x_users_type_them(capsys, tmp_path, no_tensorflow):
    (tmp_path / 'short.gin').write_text('STEPS = 900\n')
    main.main(
        [
            'config',
            f'--gin_file={CLM}',
            '--gin_file=short.gin',
            f'--gin_search_paths={tmp_path},/nowhere',
            '--gin.clm/experiment.Stream.mixture="austen"',
            '--gin.experiment.Experiment.seed=7',
            f'--tfds_data_dir={tmp_path}',
        ]
    )
    names = {}
    exec(capsys.readouterr().out, names)
    experiment = names['experiment']
    assert (experiment.steps, experiment.seed) == (900, 7)
    assert experiment.streams['clm'].mixture == 'austen'


def test_an_import_is_not_looked_for_before_data_is_needed(capsys, no_tensorflow):
    main.main(['config', CLM, '--import', 'no_such_module'])
    assert "'no_such_module'" in capsys.readouterr().out


MULTI = 'configs/runs/multi_mini.gin'
SPAN = 'configs/runs/span_mini.gin'
BAD = {
    'no config': ('', ['CONFIG', 'name a .gin or .py file']),
    'missing config': ('configs/runs/clm_min.gin', ['no such file', 'nearest: configs/runs/clm']),
    'wrong key': (f'{CLM} --set model.drpout=1', ["no 'drpout'", 'nearest: dropout']),
    'wrong type': (f'{CLM} --set steps=many', ['steps=many', 'an integer', 'try steps=2000']),
    'no layers': (f'{CLM} --set model.decoder_layers=0', ['decoder_layers=0 is no model']),
    'causal LM on an encoder': (
        f'{MULTI} --set model.decoder_layers=0',
        ["Stream 'clm'", 'decoder_layers=0', 'set model.decoder_layers'],
    ),
    'shorter than a span': (
        f'{SPAN} --set streams.span.lengths.inputs=2',
        ["lengths['inputs']=2", '3 or more', 'try 3'],
    ),
    'targets too short': (
        f'{SPAN} --set streams.span.lengths.targets=9',
        ["lengths['targets']=9", 'or more for 128 inputs', 'try '],
    ),
    'batch over devices': (
        f'{CLM} --set streams.clm.batch_size={DEVICES + 1}',
        [f'batch_size={DEVICES + 1}', f'{DEVICES}', 'try '],
    ),
    'mesh over devices': (
        f'{CLM} --set mesh.model={DEVICES + 1}',
        [f'model={DEVICES + 1}', f'there are {DEVICES}', 'try '],
    ),
    'gin binding': (f'{CLM} --gin.STEPZ=3', ['--gin.STEPZ', 'nearest: STEPS']),
    'data folder': (f'{CLM} --tfds_data_dir=/no/such/folder', ['--tfds_data_dir=/no', 'folder']),
    'data folder is a file': (f'{CLM} --tfds_data_dir={__file__}', ['must be a folder']),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input_gets_one_message_and_status_2(case, capsys, tmp_path, no_tensorflow):
    arguments, parts = BAD[case]
    folder = tmp_path / 'run'
    assert status('train', *arguments.split(), '--run', str(folder)) == 2
    message = capsys.readouterr().err
    assert message.startswith('error: ') and message.count('\n') == 1
    assert all(part in message for part in parts), message
    assert not folder.exists()


def test_a_run_of_another_experiment_is_left_alone(capsys, tmp_path, no_tensorflow):
    run.claim(tmp_path, config.load(CLM).experiment, name=CLM)
    (tmp_path / 'checkpoints' / '10').mkdir(parents=True)
    before = (tmp_path / 'experiment.py').read_text()
    assert status('train', CLM, '--set', 'model.dropout=0.1', '--run', str(tmp_path)) == 2
    message = capsys.readouterr().err
    assert 'belongs to another experiment' in message
    assert 'model.dropout: 0.0 -> 0.1' in message
    assert (tmp_path / 'experiment.py').read_text() == before


def test_a_start_that_saved_nothing_can_be_corrected_in_the_same_folder(tmp_path):
    first, second = (
        config.load(CLM, [f'streams.clm.mixture={name}']).experiment for name in ('a', 'b')
    )
    run.claim(tmp_path, first, name=CLM)
    (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n')
    run.claim(tmp_path, second, name=CLM)
    assert config.load(tmp_path / 'experiment.py').experiment == second
    assert not (tmp_path / 'metrics.jsonl').exists()


def test_what_is_wrong_with_the_data_is_one_message_too(capsys, tmp_path):
    command = ['train', CLM, '--smoke', '--import', 'no_such_module', '--run', str(tmp_path)]
    assert status(*command) == 2
    assert capsys.readouterr().err.count("'no_such_module' does not import") == 1


@pytest.mark.parametrize('command', [['train', CLM], ['eval'], ['config', CLM, '--sett', 'a=1']])
def test_wrong_arguments_have_status_2(command, capsys):
    assert status(*command) == 2
    assert 'error:' in capsys.readouterr().err


@pytest.mark.parametrize('command', [['train', CLM, '--run'], ['eval'], ['generate']])
def test_a_bucket_must_be_mounted(command, capsys):
    assert status(*command, 'gs://mine/runs', *['x'] * (command == ['generate'])) == 2
    assert 'gs://mine/runs: must be a folder; mount the bucket' in capsys.readouterr().err


@pytest.mark.parametrize('command', ['eval', 'report'])
def test_a_folder_without_a_run_is_said(command, capsys, tmp_path, no_tensorflow):
    assert status(command, str(tmp_path)) == 2
    message = capsys.readouterr().err
    assert str(tmp_path) in message and message.count('\n') == 1


def test_the_outcome_sets_each_loss_against_a_unigram_model():
    values = {
        'train/loss': 5.0,
        'eval/clm/bits_per_byte': 1.75,
        'eval/clm/unigram_bits_per_byte': 2.125,
    }
    assert list(main.outcome(values)) == [
        'held-out eval/clm/bits_per_byte: 1.750 (unigram model: 2.125)'
    ]


def python(code: str, *arguments: str, cwd=PROJECT) -> tuple[subprocess.CompletedProcess, float]:
    """A new Python's result and its CPU seconds, which the machine's other work does not change."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    path = f'import sys\nsys.path += [{str(PROJECT)!r}, {str(PROJECT / "tests")!r}]\n'
    command = [sys.executable, '-c', path + code, *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


MAIN = 'from t5x_lite.main import main\nmain()'


@pytest.mark.alone
@pytest.mark.parametrize(
    'command, code, times',
    [
        ('--help', 0, 0.5),
        (f'config {CLM}', 0, 2.0),
        (f'config {CLM} --set model.drpout=1', 2, 4.0),
        (f'train {CLM} --set mesh.fsdp=1000 --run runs/never', 2, 4.0),
    ],
)
def test_a_command_answers_soon(command, code, times):
    """In so many times what `import jax` takes, on a machine as fast as it is now."""
    _, jax_alone = python('import jax')
    done, spent = python(MAIN, *command.split())
    assert done.returncode == code, done.stderr
    assert 'Traceback' not in done.stderr
    assert spent < times * jax_alone


def test_modules_beside_the_user_are_importable(tmp_path):
    (tmp_path / 'my_models.py').write_text(
        'from t5x_lite.model.presets import decoder_mini\n\n\n'
        'def mine(**changes):\n    return decoder_mini(**changes | dict(embed=96))\n'
    )
    (tmp_path / 'run.gin').write_text(
        (PROJECT / CLM).read_text()
        + '\nimport my_models\nexperiment.Experiment.model = @my_models.mine()\n'
    )
    as_console_script = "sys.path = [p for p in sys.path if p != '']\n"
    done, _ = python(as_console_script + MAIN, 'config', 'run.gin', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'embed=96' in done.stdout


COMPUTE = """
import importlib, pkgutil
class Forbidden:
    def find_spec(self, name, *_):
        if name.split('.')[0] in (
            'tensorflow', 'seqio', 'sentencepiece', 'tensorflow_datasets', 'tokenizers'
        ):
            raise ImportError(f'{name} is not installed')
sys.meta_path.insert(0, Forbidden())
import t5x_lite
DATA_SIDE = ('t5x_lite.data.tasks.', 't5x_lite.data.text_task', 't5x_lite.data.tfds_builder')
DATA_SIDE += ('t5x_lite.data.hf_vocabulary', 't5x_lite.data.tokenizer_vocabulary')
DATA_SIDE += ('t5x_lite.data.sentencepiece_vocabulary', 't5x_lite.data.labelled_task')
DATA_SIDE += ('t5x_lite.data.tagged_task', 't5x_lite.data.text_to_text_task')
count = 0
for module in pkgutil.walk_packages(t5x_lite.__path__, 't5x_lite.'):
    others = ('__main__', '_adapter')  # what wraps another project's package needs it
    if not module.name.startswith(DATA_SIDE) and not module.name.endswith(others):
        importlib.import_module(module.name)
        count += 1
import fixtures, jax
from t5x_lite import sharding, step
experiment = fixtures.experiment('clm', 'mlm')
mesh = sharding.make_mesh(experiment.mesh)
state = step.make_init(experiment, mesh)()
train_step = step.make_train_step(experiment, mesh)
for batches in fixtures.batches(experiment, 2):
    placed = {name: sharding.put_batch(batch, mesh) for name, batch in batches.items()}
    state, means = train_step(state, placed)
print(count, int(state.step), float(means['loss'].value) > 0)
"""


def test_the_compute_side_works_without_tensorflow():
    done, _ = python(COMPUTE)
    assert done.returncode == 0, done.stderr[-2000:]
    count, steps, learned = done.stdout.split()
    assert int(count) > 35
    assert (steps, learned) == ('2', 'True')


def test_config_of_every_shipped_file_runs_again(capsys):
    for file in sorted((PROJECT / 'configs').glob('[rs]*/*.gin')):
        main.main(['config', str(file)])
        names = {}
        exec(capsys.readouterr().out, names)
        assert printing.source(names['experiment']) == printing.source(config.load(file).experiment)
