"""A run accounts for all of its time, and goes on with the account of its earlier starts."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
import time

import pytest
import trained

from t5x_lite import stopwatch
from t5x_lite.experiment import Checkpoints
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.stopwatch import ACCOUNT, PARTS, STAGES, START, Stopwatch
from t5x_lite.train import train

WORDS = 'It was a dark night and all of them went home by the old road along the river.'


@pytest.fixture
def experiment():
    trained.register('lines_for_a_run', trained.texts('targets'), {'targets': 16 * [WORDS]})
    plan = Checkpoints(every=2)
    fields = dict(mixture='lines_for_a_run', checkpoint=plan, log_every=1, steps=3)
    return trained.experiment(causal_lm(), {'targets': 8}, **fields)


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


def test_parts_add_up_to_the_wall_clock_also_over_a_restart(experiment, tmp_path, capsys):
    began = time.time()
    values = train(experiment, tmp_path, clock=Stopwatch('start/import'))
    rows = lines(tmp_path)
    account = stopwatch.last(rows, ACCOUNT)
    wall = rows[-1]['time'] - began
    assert list(account) == list(PARTS)
    assert sum(account.values()) == pytest.approx(wall, rel=0.01, abs=0.1)
    assert {ACCOUNT + name: seconds for name, seconds in account.items()}.items() <= values.items()
    stages = stopwatch.last(rows, START)
    beside = stages.pop('data_in_thread')
    assert list(stages) == [name for name in STAGES if name != 'config']
    assert sum(stages.values()) == pytest.approx(account['start'], abs=1e-3)
    assert beside > 0 and account['step'] > 0 and account['save'] > 0
    said = capsys.readouterr().out
    assert f'data (of {beside:.1f} beside trace, compile and weights)' in said
    assert f'wall clock of the run {sum(account.values()):.1f}' in ' '.join(said.split())
    assert 'The run: ' in (tmp_path / 'report.html').read_text(encoding='utf-8')

    again = time.time()
    train(dataclasses.replace(experiment, steps=4), tmp_path)
    rows = lines(tmp_path)
    total = stopwatch.last(rows, ACCOUNT)
    wall += rows[-1]['time'] - again
    assert sum(total.values()) == pytest.approx(wall, rel=0.01, abs=0.1)
    assert total['start'] > account['start'] and total['save'] > account['save']
