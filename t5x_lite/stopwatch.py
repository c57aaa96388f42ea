"""Where a run's time goes: at any moment one part's clock runs, so that they add up to the wall."""
# SPDX-License-Identifier: Apache-2.0

import collections
import contextlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

# Stages of the start, in order: what the loop's thread does until the first step is done.
STAGES = {
    'import': 'imports its modules',
    'config': 'reads the config',
    'trace': 'traces the step',
    'compile': 'compiles the step',
    'weights': 'restores or draws the weights',
    'data': 'opens the data',
    'batch': 'makes the first batch',
    'step': 'at its first step',
}
PARTS = {
    'start': 'start: imports, compiling, opening, first step',
    'step': 'steps',
    'data': 'waiting for data',
    'eval': 'evaluation',
    'save': 'checkpoints',
    'rest': 'logging, report',
}
ACCOUNT = 'perf/time/'  # what the names of metrics begin with
START = 'perf/start/'


class Stopwatch:
    """Seconds by part since it was made, and of earlier starts if `carry` brought them.

    For one thread. `part` is what runs first; a part `start/NAME` is a stage of the start.
    """

    def __init__(self, part: str = 'start/import'):
        self._seconds = collections.Counter()
        self._earlier = collections.Counter()
        self._running, self._since = [part], time.monotonic()

    def begin(self, part: str) -> None:
        """From here on `part` runs, in place of the one that did."""
        self._lap()
        self._running[-1] = part

    @contextlib.contextmanager
    def timing(self, part: str):
        """`part` runs inside, and what ran before goes on after it. The start is never left."""
        if self._running[0].startswith('start/'):
            yield
            return
        self._lap()
        self._running.append(part)
        try:
            yield
        finally:
            self._lap()
            self._running.pop()

    def seconds(self) -> dict[str, float]:
        """By part, of this start alone."""
        self._lap()
        return dict(self._seconds)

    def stages(self) -> dict[str, float]:
        """The stages of this start so far, in order: together the time to the first step."""
        own = self.seconds()
        return {name: own[f'start/{name}'] for name in STAGES if f'start/{name}' in own}

    def carry(self, account: Mapping[str, float]) -> None:
        """Goes on from the account of earlier starts of the run."""
        self._earlier.update(account)

    def account(self) -> dict[str, float]:
        """Seconds of each of PARTS, of all starts: together the wall clock of the run."""
        found = collections.Counter(self._earlier)
        for part, seconds in self.seconds().items():
            found[part.partition('/')[0]] += seconds
        return {name: float(found[name]) for name in PARTS}

    def metrics(self) -> dict[str, float]:
        """The account by metric name."""
        return {ACCOUNT + name: seconds for name, seconds in self.account().items()}

    def _lap(self) -> None:
        now = time.monotonic()
        self._seconds[self._running[-1]] += now - self._since
        self._since = now


def last(rows: Iterable[Mapping[str, Any]], prefix: str) -> dict[str, float]:
    """What a run's lines of metrics say last under names of that prefix, which is taken off."""
    for row in reversed(list(rows)):
        found = {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}
        if found:
            return found
    return {}


def table(account: Mapping[str, float]) -> list[str]:
    """Lines that say where the time went, the whole first."""
    whole = sum(account.values())
    rows = [('wall clock of the run', whole), *((PARTS[name], account[name]) for name in PARTS)]
    width = max(len(told) for told, _ in rows)
    return [f'{told:{width}} {s:10.1f} s {s / max(whole, 1e-9):7.1%}' for told, s in rows]
