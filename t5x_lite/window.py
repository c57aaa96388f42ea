"""Sums between two log lines: means, times, and what the loaders counted."""
# SPDX-License-Identifier: Apache-2.0

import collections
import math
from collections.abc import Mapping

import jax

from t5x_lite import hosts, metrics
from t5x_lite.errors import RunError
from t5x_lite.metrics import Mean
from t5x_lite.stopwatch import Stopwatch

MOST_HOSTS = 16  # whose data wait is a metric each


class Window:
    """Sums of means and times since the last log line; a mean is divided when closed."""

    def __init__(self, clock: Stopwatch, means: Mapping[str, Mean] = ()):
        self._clock = clock
        self.means = dict(means)
        self._pending = None
        self._counts = {}  # of each stream's loader, at the last log line
        self._clear_clocks()

    def _clear_clocks(self) -> None:
        self._before = collections.Counter(self._clock.seconds())
        self._steps = 0

    def push(self, means) -> None:
        """Takes a step's means, still being computed, and fetches those of the step before."""
        previous, self._pending = self._pending, means
        self._steps += 1
        self._fetch(previous)

    def flush(self) -> None:
        """Fetches what is pending: the device is idle when this returns."""
        pending, self._pending = self._pending, None
        self._fetch(pending)

    def _fetch(self, means) -> None:
        if means is None:
            return
        with self._clock.timing('step/device'):
            means = jax.device_get(means)
        if not math.isfinite(means['loss'].total + means['grad_norm'].total):
            raise RunError(
                f'the loss is {means["loss"].total} and the norm of its gradient '
                f'{means["grad_norm"].total} after {self._steps} steps of this log window; '
                'nothing was saved since; lower the learning rate or clip gradients, then run the '
                'same command to go on from the last checkpoint'
            )
        self.means = metrics.add(self.means, means)

    def begin(self, counts: Mapping[str, Mapping[str, int]], share: float = 1.0) -> None:
        """Before the first step: what loaders count is told from here on. As `close`."""
        parts = hosts.gather('window/begin', {'counts': counts, 'share': share})
        self._counts = {name: _total(parts, name) for name in counts}

    def close(
        self, now: int, counts: Mapping[str, Mapping[str, int]], share: float = 1.0
    ) -> dict[str, float]:
        """The window's values by metric name, and begins the next one.

        `counts` are those of each stream's loader, `share` the part of the data that this host
        reads. On the first host the values are of all hosts, on the others of that part alone.
        """
        self.flush()
        spent = collections.Counter(self._clock.seconds())
        spent.subtract(self._before)
        wall = sum(spent.values()) - spent['eval'] - spent['save']
        waited = spent['data'] + spent['start/batch']  # the first batch belongs to the start
        host = wall - waited - spent['step/device'] - spent['start/step']
        own = dict(counts=counts, share=share, wait=waited / wall)
        parts = hosts.gather(f'window/{now}', own)
        new = {name: self._new(name, _total(parts, name)) for name in counts}
        tokens = sum(own.get('tokens', 0) for own in new.values())
        values = {f'train/{name}': float(mean.value) for name, mean in self.means.items()}
        values |= {
            'perf/tokens_per_second': tokens / wall,
            'perf/steps_per_second': self._steps / wall,
            'perf/host_ms': 1e3 * host / self._steps,
        }
        values |= _waits([part['wait'] for part in parts])
        for name, own in new.items():
            told = {'dropped': self._counts[name].get('dropped', 0), **_shares(own, tokens)}
            values |= {f'data/{name}/{what}': float(value) for what, value in told.items()}
        self.means = {}
        self._clear_clocks()
        return values

    def _new(self, stream: str, counts: Mapping[str, float]) -> dict[str, float]:
        """What a loader counted since the last log line."""
        before = self._counts.get(stream, {})
        self._counts[stream] = counts
        return {name: count - before.get(name, 0) for name, count in counts.items()}


def _shares(new: Mapping[str, float], tokens: float) -> dict[str, float]:
    """A stream's part of the tokens, how full its rows are, and the share of each task's examples.

    With the number of rows in which nothing is scored.
    """
    values = {name: new[name] for name in ('unscored_rows',) if name in new}
    if 'places' in new:
        values['filled'] = new['tokens'] / max(1, new['places'])
        values['token_share'] = new['tokens'] / max(1, tokens)
    examples = {name: n for name, n in new.items() if name.startswith('examples/')}
    total = max(1, sum(examples.values()))
    return values | {name.replace('examples/', 'rate/'): n / total for name, n in examples.items()}


def _total(parts, stream: str) -> dict[str, float]:
    """A loader's counts on all hosts; what several of them read, as if it were read once."""
    total = collections.Counter()
    for part in parts:
        total.update(part['counts'][stream])
    share = sum(part['share'] for part in parts)
    return {name: count / share for name, count in total.items()}


def _waits(waits) -> dict[str, float]:
    """The share of time that the slowest host waited for data; each host's, if they are few."""
    values = {'perf/data_wait_share': max(waits)}
    if len(waits) > 1:
        values['perf/data_wait_host'] = float(waits.index(max(waits)))
    if 1 < len(waits) <= MOST_HOSTS:
        values |= {f'perf/data_wait_share/{i}': wait for i, wait in enumerate(waits)}
    return values
