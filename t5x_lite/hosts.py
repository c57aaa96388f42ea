"""Several hosts: who writes, what they agree on, who is missing, and how one leaves."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from t5x_lite import meeting
from t5x_lite.errors import ConfigError, RunError
from t5x_lite.stopwatch import STAGES

PATIENCE = 300  # seconds that hosts wait for each other at the start
FIRST_STEP = STAGES['step']
# What jax's errors say when another process is gone; there is no class of their own.
LOST = ('gloo', 'unavailable', 'connection re', 'coordination', 'socket closed', 'heartbeat')


@contextlib.contextmanager
def started(
    coordinator: str | None = None,
    process_id: int | None = None,
    processes: int | None = None,
    *,
    patience: float = PATIENCE,
):
    """Inside it this process is one of several, if flags or the launcher's environment say so.

    Comes before anything that asks jax for devices. `processes=1` keeps this one alone. An error
    inside ends this host at once, so that the others, which wait for it, see that it is gone.

    Raises:
      ConfigError: some flags but not all, or numbers that do not fit.
      RunError: the coordinator did not answer in `patience` seconds.
    """
    meeting.start(coordinator, process_id, processes, patience)
    if not several():
        yield
        return
    try:
        stage('reads the config')
        yield
    except (Exception, KeyboardInterrupt) as error:
        leave(error)


def several() -> bool:
    return _client() is not None and jax.process_count() > 1


def is_first() -> bool:
    """This host writes what one alone writes: metrics, samples, reports, lines for people."""
    return not several() or jax.process_index() == 0


def barrier(name: str, seconds: float = 600) -> None:
    """Returns when all hosts have come here. Each name is used once."""
    if several():
        _client().wait_at_barrier(f'barrier/{name}', int(1e3 * seconds))


def on_first(name: str, action: Callable[[], str], seconds: float = 600) -> str:
    """The text that `action` returns on the first host, on all; a ConfigError there is all's."""
    if not several():
        return action()
    key, told = f'first/{name}', None
    if is_first():
        try:
            told = {'text': action()}
        except ConfigError as error:
            told = {'error': str(error)}
        _client().key_value_set(key, json.dumps(told))
    told = json.loads(_client().blocking_key_value_get(key, int(1e3 * seconds)))
    if 'error' in told:
        raise ConfigError(told['error'])
    return told['text']


def check_shared(path: Path, text: str, seconds: float = 30) -> None:
    """ConfigError unless this host reads in the file what the first one wrote."""
    limit = time.monotonic() + seconds  # network file systems may show it late
    while several() and not (path.exists() and path.read_text(encoding='utf-8') == text):
        if time.monotonic() > limit:
            raise ConfigError(
                f'--run {path.parent}: host {jax.process_index()} ({socket.gethostname()}) does '
                'not see what host 0 wrote there; name a folder that all hosts share'
            )
        time.sleep(0.1)


def gather(name: str, value: Any, seconds: float = 120) -> list:
    """Every host's value (JSON) in order, on the first host; the others get their own alone.

    No device takes part and the others do not wait. Each name is used once.
    """
    if several():
        _client().key_value_set(f'gather/{name}/{jax.process_index()}', json.dumps(value))
    if not several() or jax.process_index() > 0:
        return [value]
    values = _collect(name, seconds)
    _client().key_value_delete(f'gather/{name}/')
    return values


def share(name: str, value: Any, seconds: float = 600) -> list:
    """Every host's value (JSON) in order, on all hosts. Each name is used once."""
    if not several():
        return [value]
    _client().key_value_set(f'gather/{name}/{jax.process_index()}', json.dumps(value))
    return _collect(name, seconds)


def _collect(name: str, seconds: float) -> list:
    limit, found, hosts = time.monotonic() + seconds, {}, range(jax.process_count())
    while len(found) < len(hosts):
        pairs = _client().key_value_dir_get(f'gather/{name}/')
        found = {int(key.rpartition('/')[2]): text for key, text in pairs}
        if time.monotonic() > limit:
            late = sorted(set(hosts) - set(found))
            raise RunError(f'hosts {late} did not report {name} in {seconds:g} s')
        time.sleep(0.001)
    return [json.loads(found[host]) for host in hosts]


@contextlib.contextmanager
def stopping() -> Iterator[Callable[[int], bool]]:
    """A function of the step, to be called after every step: should all save it and leave?

    SIGTERM to any host is an answer at the same step on all; asking costs no message.
    """
    if several():
        from jax.experimental import multihost_utils

        yield multihost_utils.reached_preemption_sync_point
        return
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    old = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield lambda step: event.is_set()
    finally:
        signal.signal(signal.SIGTERM, old)


def stage(what: str) -> None:
    """Tells the others how far this host is, for `watching`."""
    if several():
        text = f'{socket.gethostname()} {what}'
        _client().key_value_set(f'stage/{jax.process_index()}', text, allow_overwrite=True)


@contextlib.contextmanager
def watching(say: Callable[[str], None], patience: float = PATIENCE):
    """Inside it, until all hosts are at the first step, the first one says who is not, and where.

    It does so every `patience` seconds.
    """
    done = threading.Event()

    def watch():
        began = time.monotonic()
        while not done.wait(patience):
            late = missing()
            if not late:
                return
            say(f'{time.monotonic() - began:.0f} s, not at the first step: {"; ".join(late)}')

    if several() and is_first():
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def missing() -> list[str]:
    """The hosts that are not at their first step yet: number, name and what they do."""
    pairs = _client().key_value_dir_get('stage/')
    stages = {int(key.rpartition('/')[2]): text for key, text in pairs}
    hosts = {i: stages.get(i, 'has not started') for i in range(jax.process_count())}
    return [f'host {i} ({text})' for i, text in hosts.items() if not text.endswith(FIRST_STEP)]


def leave_if_lost(_, error, __) -> None:
    """For ExitStack.push: if another host is gone, nothing here is closed, which would wait."""
    if several() and _is_lost(error):
        leave(error)


def leave(error: BaseException) -> None:
    """Says what was wrong and ends this process now: a closing barrier would wait for the rest."""
    if isinstance(error, ConfigError | RunError):
        print(f'error: {error}', file=sys.stderr)
    elif _is_lost(error):
        print(
            f'error: another host is gone ({meeting.first_line(error)}); run the same command on '
            'all hosts to go on from the last checkpoint',
            file=sys.stderr,
        )
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    if is_first():
        time.sleep(2)  # the others speak first: they end when their coordinator does
    os._exit(2 if isinstance(error, ConfigError) else 1)


def _is_lost(error: BaseException | None) -> bool:
    text = str(error).lower()
    return isinstance(error, jax.errors.JaxRuntimeError) and any(word in text for word in LOST)


def _client():
    """The key-value store and barriers of jax.distributed; None: this process is alone."""
    from jax._src import distributed  # there is no public name

    return distributed.global_state.client
