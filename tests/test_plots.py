"""Plots show what the records say, and nothing of a record without a quotient."""
# SPDX-License-Identifier: Apache-2.0

import importlib.util
import json

import pytest

from benchmarks import plots

GIB = 2**30


def peers_record(ratio) -> dict:
    alone = lambda gib: {'memory_bytes': gib * GIB}
    return {
        'step_ms': 100.0,
        'alone': alone(1),
        'peers': {
            'eager': {'step_ms': 180.0, 'alone': alone(2)},
            'compiled': {'step_ms': 150.0, 'alone': alone(3)},
        },
        'ratio': ratio,
    }


ATTENTION = {
    'device': 'some',
    'rows': [
        {'length': 512, 'path': 'flash', 'temporaries': 0},
        {'length': 1024, 'path': 'flash', 'temporaries': 2**20},
        {'length': 512, 'path': 'dense', 'temporaries': 2**23},
    ],
}


def test_times_are_of_records_with_a_quotient_and_memory_of_all():
    found = {'quiet': peers_record(1.5), 'loud': peers_record(None), 'attention_tpu': ATTENTION}
    found['decoding'] = {'ratio': 1.3, 'peer': {}}  # a record of another kind
    assert plots.peer_rows(found) == [
        ('quiet', {'t5x_lite': 100.0, 'eager': 180.0, 'compiled': 150.0})
    ]
    sizes = {'t5x_lite': 1.0, 'eager': 2.0, 'compiled': 3.0}
    assert plots.memory_rows(found) == [('quiet', sizes), ('loud', sizes)]


def test_attention_has_a_line_for_each_path():
    lines = {'flash': [(512, 0.0), (1024, 1.0)], 'dense': [(512, 8.0)]}
    assert plots.attention_lines(ATTENTION) == lines


def test_no_records_are_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        plots.main(['--results', str(tmp_path), '--images', str(tmp_path)])
    assert stopped.value.code == 2 and 'no record' in capsys.readouterr().err


@pytest.mark.skipif(
    importlib.util.find_spec('matplotlib') is None, reason='matplotlib is not installed'
)
def test_files_are_written_and_the_same_each_time(tmp_path):
    for name, record in {'gpt2': peers_record(1.5), 'attention_tpu': ATTENTION}.items():
        (tmp_path / f'{name}.json').write_text(json.dumps(record))
    both = []
    for folder in (tmp_path / 'a', tmp_path / 'b'):
        plots.main(['--results', str(tmp_path), '--images', str(folder)])
        both.append({path.name: path.read_text() for path in folder.iterdir()})
    assert sorted(both[0]) == ['attention_memory.svg', 'peers.svg', 'peers_memory.svg']
    assert both[0] == both[1]
    assert '>compiled<' in both[0]['peers.svg'] and '>150<' in both[0]['peers.svg']
