"""Every second of a run belongs to one part, and the parts add up to the wall clock."""
# SPDX-License-Identifier: Apache-2.0

import time

import pytest

from t5x_lite import stopwatch
from t5x_lite.stopwatch import ACCOUNT, PARTS, Stopwatch, last, table


@pytest.fixture
def tick(monkeypatch):
    """A clock that only this function moves."""
    now = [100.0]
    monkeypatch.setattr(stopwatch.time, 'monotonic', lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def test_inner_part_takes_its_time_from_the_outer_one(tick):
    clock = Stopwatch('step')
    tick(1)
    with clock.timing('eval'):
        tick(2)
        with clock.timing('save'):
            tick(4)
        tick(8)
    tick(16)
    assert clock.seconds() == {'step': 17, 'eval': 10, 'save': 4}


def test_part_ends_where_an_error_leaves_it(tick):
    clock = Stopwatch('step')
    with pytest.raises(ValueError, match='wrong'), clock.timing('eval'):
        tick(1)
        raise ValueError('wrong')
    tick(2)
    assert clock.seconds() == {'eval': 1, 'step': 2}


def test_what_the_start_waits_for_is_a_stage_of_the_start(tick):
    clock = Stopwatch()
    tick(1)
    clock.begin('start/batch')
    with clock.timing('data'):
        tick(2)
    clock.begin('step')
    with clock.timing('data'):
        tick(4)
    assert clock.stages() == {'import': 1, 'batch': 2}
    assert clock.account() == dict.fromkeys(PARTS, 0) | {'start': 3, 'data': 4}


def test_a_waiting_device_counts_as_steps(tick):
    clock = Stopwatch('step')
    tick(1)
    with clock.timing('step/device'):
        tick(2)
    assert clock.account()['step'] == 3


def test_account_goes_on_from_the_one_written_last(tick):
    earlier = Stopwatch('step')
    tick(5)
    lines = [
        {'step': 20, **earlier.metrics(), 'perf/time/step': 50.0},  # killed after this one
        {'step': 10, **earlier.metrics()},
        {'step': 10, 'eval/loss': 1.0},
    ]
    clock = Stopwatch()
    clock.carry(last(lines, ACCOUNT))
    tick(3)
    assert clock.account() == dict.fromkeys(PARTS, 0) | {'start': 3, 'step': 5}
    assert clock.seconds() == {'start/import': 3}
    assert last([{'step': 1}], ACCOUNT) == {}


def test_account_adds_up_to_the_wall_clock():
    began = time.monotonic()
    clock = Stopwatch()
    time.sleep(0.02)
    clock.begin('step')
    with clock.timing('save'):
        time.sleep(0.02)
    account = clock.account()
    assert sum(account.values()) == pytest.approx(time.monotonic() - began, abs=0.01)
    assert account['save'] >= 0.02


def test_table_has_the_whole_and_every_part():
    account = dict.fromkeys(PARTS, 0.0) | {'start': 25.0, 'step': 75.0}
    lines = table(account)
    assert len(lines) == 1 + len(PARTS)
    assert lines[0].split()[-3:] == ['100.0', 's', '100.0%']
    assert lines[2].split() == ['steps', '75.0', 's', '75.0%']
    assert len(set(map(len, lines))) == 1
