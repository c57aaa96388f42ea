"""Printed experiments run again to equal ones; origins and differences are right."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import sys
import types
from pathlib import Path

import pytest

from t5x_lite import config, printing
from t5x_lite.errors import ConfigError
from t5x_lite.model import presets
from t5x_lite.model.positions import Rope

PROJECT = Path(__file__).resolve().parent.parent
RUNS = sorted(path.stem for path in (PROJECT / 'configs/runs').glob('*.gin'))
GIN = 'configs/runs/clm_mini.gin'


@pytest.fixture(autouse=True)
def in_project(monkeypatch):
    monkeypatch.chdir(PROJECT)


def clm(*overrides):
    return config.load(GIN, overrides).experiment


@pytest.mark.parametrize('name', RUNS)
def test_source_is_a_config_of_the_same_experiment(name, tmp_path):
    experiment = config.load(f'configs/runs/{name}.gin').experiment
    path = tmp_path / 'experiment.py'
    path.write_text(printing.source(experiment))
    again = config.load(path).experiment
    assert again == experiment
    assert printing.source(again) == path.read_text()


def test_source_writes_every_field_out_within_100_columns():
    text = printing.source(clm())
    for value in (clm(), clm().model, clm().optimizer, clm().streams['clm'], clm().mesh):
        assert all(f'{field.name}=' in text for field in dataclasses.fields(value))
    assert max(map(len, text.splitlines())) <= 100


def test_floats_are_exact_and_equal_experiments_print_alike():
    rate = 0.1 + 0.2
    text = printing.source(clm(f'optimizer.learning_rate={rate}'))
    assert f'learning_rate={rate!r}' in text
    stream = clm().streams['clm']
    whole = dataclasses.replace(clm(), streams={'clm': dataclasses.replace(stream, weight=1)})
    assert whole == clm()
    assert printing.source(whole) == printing.source(clm())


def test_two_classes_of_one_name_are_told_apart(monkeypatch):
    """A user's own `Rope` beside ours."""
    home = types.ModuleType('my_positions')
    home.Rope = dataclasses.make_dataclass('Rope', [('base', int, 5)], frozen=True)
    home.Rope.__module__ = 'my_positions'
    monkeypatch.setitem(sys.modules, 'my_positions', home)
    text = printing.source((home.Rope(), Rope()))
    names = {}
    exec(text, names)
    assert names['experiment'] == (home.Rope(), Rope())
    assert 'from my_positions import Rope\n' in text
    assert 'import Rope as Rope_2' in text


@pytest.mark.parametrize('value', [lambda x: x, object(), {1, 2}])
def test_a_value_without_a_name_is_refused(value):
    model = presets.decoder_mini(activation=value)
    with pytest.raises(ConfigError, match=r'model\.activation=.*move it to the top level') as error:
        printing.source(dataclasses.replace(clm(), model=model))
    assert '\n' not in str(error.value)


def comment(text: str, field: str) -> str:
    """What explain says of the first line that shows the field."""
    line = next(x for x in text.splitlines() if x.strip().startswith(f'{field}='))
    return line.partition('  # ')[2]


def test_explain_says_where_each_value_was_set():
    loaded = config.load(GIN, ['model.dropout=0.1'], gin_bindings=['STEPS=900'])
    text = printing.explain(loaded)
    lines = Path(GIN).read_text().splitlines()
    peak = next(i for i, line in enumerate(lines, start=1) if 'peak' in line)
    assert comment(text, 'peak') == f'{GIN}:{peak}'
    assert comment(text, 'embed') == comment(text, 'decoder_layers')
    assert comment(text, 'embed').startswith('configs/models/decoder_mini.gin:')
    assert comment(text, 'dropout') == '--set'
    assert comment(text, 'steps') == '--gin.STEPS'
    assert comment(text, 'seed') == 'default'
    assert comment(text, 'norm_first') == 'default'


def test_explain_of_a_python_file_names_the_file():
    text = printing.explain(config.load('experiments/clm_mini.py', ['mesh.fsdp=2']))
    assert comment(text, 'embed') == 'experiments/clm_mini.py'
    assert comment(text, 'fsdp') == '--set'
    assert comment(text, 'remat') == 'default'


def test_explain_is_the_source_with_comments():
    loaded = config.load(GIN)
    bare = [line.partition('  # ')[0].rstrip() for line in printing.explain(loaded).splitlines()]
    assert bare == printing.source(loaded.experiment).splitlines()


def test_explain_finds_what_a_factory_was_given():
    loaded = config.load('configs/runs/bert_mini.gin')
    lines = Path('configs/runs/bert_mini.gin').read_text().splitlines()
    where = next(i for i, line in enumerate(lines, start=1) if 'types' in line)
    shown = comment(printing.explain(loaded), 'types')
    assert shown == f'configs/runs/bert_mini.gin:{where}'


def test_difference_names_the_fields_that_differ():
    changes = ['model.dropout=0.1', 'streams.clm.batch_size=8', 'optimizer.learning_rate=0.1']
    other = printing.source(clm('steps=5', 'log_every=5', 'checkpoint.every=5', *changes))
    assert printing.difference(printing.source(clm()), other) == [
        'model.dropout: 0.0 -> 0.1',
        'streams.clm.batch_size: 16 -> 8',
        'optimizer.learning_rate: Cosine(peak=0.001, warmup=200, steps=... -> 0.1',
    ]
    assert printing.difference(other, other) == []


def test_difference_names_what_only_one_has():
    multi = config.load('configs/runs/multi_mini.gin').experiment
    lines = printing.difference(printing.source(clm()), printing.source(multi))
    assert any(line.startswith('streams.sentences: (absent) -> Stream(') for line in lines)
    with pytest.raises(ConfigError, match='defines no `experiment`'):
        printing.difference('x = 3', 'experiment = 3')
