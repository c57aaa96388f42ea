"""`t5x-lite data show` and `data stats`: what they print, write and refuse."""
# SPDX-License-Identifier: Apache-2.0

import json
import sys
from pathlib import Path

import pytest

from t5x_lite import main, paint_text
from t5x_lite.data import sizes

PROJECT = Path(__file__).resolve().parent.parent
CLM = 'configs/runs/clm_mini.gin'
SMALL = ['--set', 'streams.clm.lengths.targets=32']


@pytest.fixture(autouse=True)
def in_project(monkeypatch):
    monkeypatch.chdir(PROJECT)


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as ended:
        main.main(list(arguments))
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_task_is_shown_step_by_step_by_its_name_alone(capsys, tmp_path):
    page = tmp_path / 'page.html'
    main.main(['data', 'show', 'austen', '--examples', '1', '--html', str(page)])
    out = capsys.readouterr().out
    assert 'task austen, split train' in out and 'tokenize(copy_pretokenized=False)' in out
    assert '\x1b' not in out
    assert out.splitlines()[-1] == str(page) and 'Document 1' in page.read_text()


def test_a_config_is_shown_with_its_first_rows(capsys):
    main.main(['data', 'show', CLM, *SMALL, '--examples', '2', '--tokens', '5'])
    out = capsys.readouterr().out
    assert 'stream clm' in out and 'row 2' in out and 'row 3' not in out
    assert 'decoder_positions: 0..31' in out and '--tokens=32 draws them' in out


def test_a_seed_changes_the_rows(capsys):
    drawn = []
    for seed in ('1', '1', '2'):
        main.main(['data', 'show', CLM, *SMALL, '--examples', '1', '--seed', seed])
        drawn.append(capsys.readouterr().out.partition('row 1')[2])
    assert drawn[0] == drawn[1] != drawn[2]


def test_stats_of_a_config_as_json(capsys, tmp_path):
    page = tmp_path / 'page.html'
    few = ['--documents', '20', '--batches', '2']
    main.main(['data', 'stats', CLM, *SMALL, *few, '--json', '--html', str(page)])
    numbers = json.loads(capsys.readouterr().out)
    assert numbers['streams']['clm']['sides']['decoder']['places'] == 32
    [mixture] = numbers['mixtures'].values()
    assert sum(task['documents'] for task in mixture['tasks'].values()) >= 20
    assert 'Stream clm' in page.read_text()


@pytest.mark.parametrize('command', ['show', 'stats'])
def test_an_unknown_task_lists_the_nearest(command, capsys):
    message = refused(capsys, 'data', command, 'austn')
    assert "'austn' is registered by none" in message and 'nearest: austen' in message
    assert '--import' in message and message.count('\n') == 1


@pytest.mark.parametrize('command', ['show', 'stats'])
def test_data_that_is_not_there_is_one_message(command, capsys):
    message = refused(capsys, 'data', command, 'c4_en')
    assert 'c4/en:3.0.1 must be prepared there' in message and '--tfds_data_dir' in message


BAD = {
    'no name': ('', 'name a task, a mixture, or a .gin or .py file'),
    'missing config': ('configs/runs/clm_min.gin', 'nearest: configs/runs/clm'),
    'wrong key': (f'{CLM} --set model.drpout=1', 'nearest: dropout'),
    'override of a task': ('austen --set model.dropout=1', 'need a .gin or .py file'),
    'smoke of a task': ('austen --smoke', 'need a .gin or .py file'),
    'negative seed': (f'{CLM} --seed=-1', 'seed=-1 must be an integer of 0 or more'),
    'negative seed of a task': ('austen --seed=-1', '--seed=-1 must be 0 or more'),
    'no examples': ('austen --examples 0 --documents 0', '0 must be 1 or more'),
    'page in no folder': ('austen --html {missing}/page.html', '--html={missing}/page.html'),
    'data folder': ('austen --tfds_data_dir={missing}', 'must be a folder'),
}


@pytest.mark.parametrize('command', ['show', 'stats'])
@pytest.mark.parametrize('case', BAD)
def test_bad_input_is_said_before_tensorflow_is_imported(
    case, command, capsys, monkeypatch, tmp_path
):
    for name in ('tensorflow', 'seqio'):
        monkeypatch.setitem(sys.modules, name, None)
    arguments, part = (text.format(missing=tmp_path / 'missing') for text in BAD[case])
    wrong = {'show': ' --documents 0', 'stats': ' --examples 0'}[command]
    arguments = arguments.replace(wrong, '')
    assert part in refused(capsys, 'data', command, *arguments.split())


def test_a_split_that_is_not_there_is_refused(capsys):
    assert "no split 'dev'" in refused(capsys, 'data', 'show', CLM, '--split', 'dev')
    assert "no split 'dev'" in refused(capsys, 'data', 'stats', 'austen', '--split', 'dev')


@pytest.mark.parametrize(
    'terminal, variables, coloured',
    [
        (True, {}, True),
        (False, {}, False),
        (True, {'NO_COLOR': '1'}, False),
        (True, {'NO_COLOR': ''}, True),
        (True, {'TERM': 'dumb'}, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(monkeypatch, terminal, variables, coloured):
    monkeypatch.delenv('NO_COLOR', raising=False)
    monkeypatch.setenv('TERM', 'xterm')
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr('sys.stdout.isatty', lambda: terminal)
    assert paint_text.in_colour() is coloured


def test_stats_of_a_whole_task_are_what_check_tells_epochs_by(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv('T5X_LITE_DATA_DIR', str(tmp_path))
    main.main(['data', 'stats', 'austen', '--documents', '100'])
    assert not (tmp_path / 'sizes').exists()  # it has 239
    main.main(['data', 'stats', 'austen', '--documents', '240'])
    assert sizes.of('austen').tasks == sizes.SHIPPED['austen'].tasks
    assert (tmp_path / 'sizes/austen.json').exists()
