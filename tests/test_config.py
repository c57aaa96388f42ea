"""Config files: gin and Python make equal experiments; bad input gets one clear message."""
# SPDX-License-Identifier: Apache-2.0

import subprocess
import sys
from pathlib import Path

import gin
import pytest

from t5x_lite import config, printing
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Experiment
from t5x_lite.model.norms import LayerNorm
from t5x_lite.model.positions import Rope

PROJECT = Path(__file__).resolve().parent.parent
RUNS = sorted(path.stem for path in (PROJECT / 'configs/runs').glob('*.gin'))
CLM = PROJECT / 'configs/runs/clm_mini.gin'

IMPORTS = """\
from __gin__ import dynamic_registration
from t5x_lite import experiment
from t5x_lite import optim
from t5x_lite.model import activations
from t5x_lite.model import norms
from t5x_lite.model import presets
"""  # 6 lines
MODEL = "include 'models/decoder_mini.gin'\n"
REST = """\
include 'objectives/causal_lm.gin'
experiment.Experiment.optimizer = @optim.AdamW()
experiment.Experiment.steps = 7
optim.AdamW.learning_rate = 0.1
clm/experiment.Stream:
    mixture = 'any'
    lengths = {'targets': 8}
    batch_size = 2
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a file into the current folder and returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(text, name='run.gin'):
        Path(name).write_text(text)
        return name

    return write


def message(*args, **kwargs) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize('name', RUNS)
def test_gin_and_python_make_equal_experiments(name):
    first = config.load(PROJECT / f'configs/runs/{name}.gin').experiment
    second = config.load(PROJECT / f'experiments/{name}.py').experiment
    assert first == second
    assert printing.source(first) == printing.source(second)


@pytest.mark.parametrize('name', RUNS)
def test_gin_itself_reads_our_files_alike(name, monkeypatch):
    monkeypatch.setattr(gin.config, '_LOCATION_PREFIXES', [str(PROJECT / 'configs')])
    gin.clear_config()
    gin.parse_config_file(f'runs/{name}.gin')
    assert gin.get_configurable(Experiment)() == config.load(f'runs/{name}.gin').experiment


def test_loading_twice_gives_equal_values_and_leaves_nothing_behind():
    changed = config.load(CLM, gin_bindings=['experiment.Experiment.steps=3']).experiment
    assert changed.steps == 3
    assert config.load(CLM) == config.load(CLM)
    assert config.load(CLM).experiment.steps != 3


def test_reading_and_explaining_a_config_imports_no_heavy_library():
    code = (
        'import sys\nfrom t5x_lite import config, printing\n'
        f'print(printing.explain(config.load({str(CLM)!r})), file=sys.stderr)\n'
        "print(sorted({'tensorflow', 'seqio', 'flax', 'orbax', 'jax'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=PROJECT, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "['jax']"


def test_gin_scopes_macros_functions_and_nested_values(write):
    text = """
from t5x_lite import sharding
WIDTH = 64
presets.decoder_mini:
    embed = %WIDTH
    norm = @norms.LayerNorm()
    activation = @activations.relu
norms.LayerNorm.eps = 1e-3
experiment.Stream.batch_size = 2
clm/experiment.Stream.batch_size = 4
experiment.Experiment.mesh = @sharding.MeshShape()
sharding.MeshShape.fsdp = 2
"""
    loaded = config.load(write(IMPORTS + MODEL + REST + text))
    experiment = loaded.experiment
    assert (experiment.model.embed, experiment.model.norm) == (64, LayerNorm(eps=1e-3))
    assert experiment.model.activation.__name__ == 'relu'
    assert experiment.streams['clm'].batch_size == 4
    assert experiment.mesh.fsdp == 2
    assert loaded.origins['model.embed'] == 'run.gin:18'
    assert loaded.origins['model.norm.eps'] == 'run.gin:23'
    assert loaded.origins['streams.clm.batch_size'] == 'run.gin:25'


def test_later_files_bindings_and_search_paths_override(write):
    Path('more').mkdir()
    Path('more/short.gin').write_text(IMPORTS + 'experiment.Experiment.steps = 2\n')
    base = write(IMPORTS + MODEL + REST + 'RATE = 0.5\noptim.AdamW.learning_rate = %RATE\n')
    both = config.load([base, 'short.gin'], search_paths=['more']).experiment
    assert (both.steps, both.optimizer.learning_rate) == (2, 0.5)
    loaded = config.load(base, gin_bindings=['RATE=0.25', 'clm/Stream.batch_size=6'])
    assert loaded.experiment.optimizer.learning_rate == 0.25
    assert loaded.experiment.streams['clm'].batch_size == 6
    assert loaded.origins['streams.clm.batch_size'] == '--gin.clm/Stream.batch_size'


def test_imports_are_added():
    loaded = config.load(CLM, imports=['my_tasks'])
    assert loaded.experiment.imports == ('t5x_lite.data.tasks.corpus_en_pd', 'my_tasks')
    assert loaded.origins['imports'] == '--import'


OVERRIDES = {
    'model.dropout=0.1': lambda e: e.model.dropout == 0.1,
    'model.positions.base=500': lambda e: e.model.positions == Rope(base=500.0),
    'streams.clm.batch_size=32': lambda e: e.streams['clm'].batch_size == 32,
    'streams.clm.lengths.targets=128': lambda e: e.streams['clm'].lengths == {'targets': 128},
    'streams.clm.mixture=austen': lambda e: e.streams['clm'].mixture == 'austen',
    'optimizer.learning_rate.peak=1e-4': lambda e: e.optimizer.learning_rate.peak == 1e-4,
    'optimizer.learning_rate=1': lambda e: type(e.optimizer.learning_rate) is float,
    'optimizer.clip=None': lambda e: e.optimizer.clip is None,
    'mesh.fsdp=2': lambda e: e.mesh.sizes == (1, -1, 2, 1, 1),
    'rules.embed=None': lambda e: e.rules['embed'] is None and e.rules['mlp'] == 'model',
    "imports=['a', 'b']": lambda e: e.imports == ('a', 'b'),
    'steps=10': lambda e: e.steps == 10,
}


@pytest.mark.parametrize('setting', OVERRIDES)
def test_override(setting):
    loaded = config.load(CLM, [setting])
    assert OVERRIDES[setting](loaded.experiment)
    assert loaded.origins[setting.partition('=')[0]] == '--set'


def test_overrides_of_one_value_are_applied_together_and_derived_sizes_follow():
    model = config.load(CLM, ['model.embed=96', 'model.heads=3']).experiment.model
    assert (model.kv, model.groups) == (32, 3)


BAD_OVERRIDES = {
    'model.drpout=1': ['--set model.drpout=1', "model has no 'drpout'", 'nearest: dropout'],
    'streams.cml.weight=1': ["streams has no 'cml'", 'nearest: clm'],
    'steps.x=1': ["steps has no 'x'", 'it is 2000'],
    'model.dropout=abc': ['--set model.dropout=abc', 'must be a number', 'try model.dropout=0.0'],
    'steps=1e4': ['--set steps=1e4', 'must be an integer', 'try steps=10000'],
    'steps=True': ['must be an integer'],
    'model.gated=yes': ['must be True or False', 'try model.gated=False'],
    'optimizer.clip=x': ['must be a number or None'],
    'model.positions=3': ['of type Rope', 'set model.positions.base=...'],
    'model.activation=relu': ['must be a function', 'in the config file'],
    'model.dropout=2': ['ModelConfig: dropout=2.0', 'try 0.1', 'after --set model.dropout=2'],
    'model.embed=250': ['heads=4 must divide embed=250', 'after --set model.embed=250'],
    'steps': ['--set steps', 'must read path=value'],
    '=3': ['must read path=value'],
}


@pytest.mark.parametrize('setting', BAD_OVERRIDES)
def test_bad_override_gets_one_message(setting):
    text = message(CLM, [setting])
    assert all(part in text for part in BAD_OVERRIDES[setting]), text
    assert '\n' not in text


def test_a_whole_and_its_part_cannot_both_be_set():
    for settings in (['rules={}', 'rules.mlp=None'], ['rules.mlp=None', 'rules={}']):
        assert 'leave one of them out' in message(CLM, settings)


BAD_GIN = {
    'experiment.Experiment.stepz = 3': ['run.gin:7', "Experiment has no 'stepz'", 'steps'],
    'experiment.Experment.steps = 3': ['run.gin:7', "no 'Experment'", 'nearest: Experiment'],
    'expriment.Experiment.steps = 3': ['run.gin:7', "'expriment' is not imported", 'experiment'],
    'experiment.Experiment.steps = ': ['run.gin:7', 'Unable to parse value'],
    'experiment.Experiment.seed = x': ['run.gin:7', "'x' is no value", 'quotes'],
    'experiment.Experiment.seed = 1.5': ['run.gin:7', 'seed=1.5 must be an integer'],
    'experiment.Experiment.seed = %SED\nSEED = 1': ['run.gin:7', '%SED is not', 'nearest: SEED'],
    'experiment.Experiment.seed = %gin.REQUIRED': ['run.gin:7', 'seed is required', '--gin.NAME'],
    'experiment.Experiment.microbatches = -1': ['run.gin:7', 'microbatches=-1', '1 or more'],
    'A = %A\nexperiment.Experiment.seed = %A': ['run.gin', 'form a circle'],
    'presets.decoder_mini.drpout = 0.1': ['run.gin:7', "no 'drpout'", 'nearest: dropout'],
    'presets.decoder_mini.norm = @norms.LayrNorm()': ['run.gin:7', 'nearest: LayerNorm'],
    "include 'models/decodr_mini.gin'": ['run.gin:7', 'nearest: models/decoder_mini.gin'],
    "include 'run.gin'": ['run.gin', 'includes itself'],
    'import no_such_module': ['run.gin:7', 'cannot import no_such_module'],
    'X = (1,': ['run.gin:8'],
    'foo bar': ['run.gin:7', "expected ':' or '='"],
}


@pytest.mark.parametrize('line', BAD_GIN)
def test_bad_gin_gets_one_message_with_its_line(write, line):
    text = message(write(f'{IMPORTS}{line}\n{MODEL}{REST}'))
    assert all(part in text for part in BAD_GIN[line]), text
    assert '\n' not in text


BAD_BINDINGS = {
    'STEPZ=10': ['--gin.STEPZ', 'nearest: STEPS'],
    'cml/Stream.batch_size=8': ['--gin.cml/Stream.batch_size', 'nearest: clm/Stream.batch_size'],
    'Strem.batch_size=8': ['--gin.Strem', 'nearest: Stream'],
    'STEPS=abc': ['--gin.STEPS=abc', "'abc' is no value"],
    'STEPS': ['--gin.STEPS'],
}


@pytest.mark.parametrize('binding', BAD_BINDINGS)
def test_bad_gin_binding_gets_one_message(binding):
    text = message(CLM, gin_bindings=[binding])
    assert all(part in text for part in BAD_BINDINGS[binding]), text


def test_causal_lm_on_an_encoder_is_refused(write):
    text = message(write(IMPORTS + MODEL.replace('decoder', 'encoder') + REST))
    assert "Stream 'clm'" in text and 'decoder_layers=0' in text and 'run.gin' in text


def test_gin_file_without_an_experiment_or_without_registration(write):
    assert 'binds no experiment.Experiment' in message(write('STEPS = 3\n'))
    assert 'dynamic_registration` first' in message(write('import t5x_lite\n'))
    assert 'needs streams' in message(write(IMPORTS + MODEL))


BAD_PYTHON = {
    'x = (': ['run.py:1', 'never closed'],
    '\n1 / 0': ['run.py:2', 'ZeroDivisionError'],
    'import no_such_module': ['run.py:1', 'no_such_module'],
    'experimnt = 3': ['run.py', 'must define `experiment`', 'nearest: experimnt'],
    'experiment = 3': ['run.py', 'not int'],
    'def experiment(): ...': ['run.py', 'call it'],
    'from t5x_lite.model.presets import *\n\nbert_base(drpout=1)': ['run.py:3', 'nearest: dropout'],
    'from t5x_lite.model.presets import *\nbert_base(dropout=3)': ['run.py:2', 'dropout=3', 'try'],
}


@pytest.mark.parametrize('text', BAD_PYTHON)
def test_bad_python_gets_one_message_with_its_line(write, text):
    told = message(write(text, 'run.py'))
    assert all(part in told for part in BAD_PYTHON[text]), told
    assert '\n' not in told


def test_missing_file_names_the_nearest_configs(write):
    assert 'nearest: configs/runs/clm_mini.gin' in message('configs/runs/clm_min.gin')
    assert 'experiments/clm_mini.py' in message('experiments/clm_mni.py')
    assert 'a .gin or .py file' in message(write('', 'run.yaml'))
    Path('run.gin').write_bytes(b'\xff\xfe\x00')
    assert 'run.gin: cannot be read' in message('run.gin')


def test_gin_options_are_refused_for_python_files():
    twin = PROJECT / 'experiments/clm_mini.py'
    assert 'use --set' in message(twin, gin_bindings=['STEPS=3'])
    assert 'use --set' in message([CLM, twin])
