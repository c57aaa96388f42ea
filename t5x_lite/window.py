"""Sums between two log lines: means, tokens, times, and where the data came from."""
# SPDX-License-Identifier: Apache-2.0

import collections
import contextlib
import math
import time
from collections.abc import Mapping

import jax
import numpy as np

from t5x_lite import hosts, metrics
from t5x_lite.errors import RunError
from t5x_lite.metrics import Mean

MOST_HOSTS = 16  # whose data wait is a metric each


class Window:
    """Sums of means, tokens and times since the last log line; a mean is divided when closed."""

    def __init__(self, means: Mapping[str, Mean] = ()):
        self.means = dict(means)
        self._pending = None
        self._examples = {}  # of each stream's tasks, at the last log line
        self._clear_clocks()

    def _clear_clocks(self) -> None:
        self._seconds, self._unscored = collections.Counter(), collections.Counter()
        self._tokens, self._places = collections.Counter(), collections.Counter()
        self._steps = 0
        self._began = time.monotonic()

    @contextlib.contextmanager
    def timing(self, what: str):
        """Counts the time inside as waiting for `what`."""
        began = time.monotonic()
        yield
        self._seconds[what] += time.monotonic() - began

    def count(self, batches) -> None:
        """Counts tokens, and rows in which nothing is scored."""
        for stream, batch in batches.items():
            for name, array in batch.items():
                if name.endswith('_segment_ids'):
                    self._tokens[stream] += int(np.count_nonzero(array))
                    self._places[stream] += array.size
                elif name.endswith('_loss_weights') and array.ndim == 2:
                    self._unscored[stream] += len(array) - int(np.count_nonzero(array.any(1)))

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
        with self.timing('device'):
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
        """Before the first step: shares of tasks are of what is drawn from here on. As `close`."""
        own = {f'counts/{name}': own for name, own in counts.items()}
        parts = hosts.gather('window/begin', {**own, 'share': share})
        for name in counts:
            self._drawn(name, _total(parts, f'counts/{name}'))

    def close(
        self, now: int, counts: Mapping[str, Mapping[str, int]], share: float = 1.0
    ) -> dict[str, float]:
        """The window's values by metric name, and begins the next one.

        `counts` are those of each stream's loader, `share` the part of the data that this host
        reads. On the first host the values are of all hosts, on the others of that part alone.
        """
        self.flush()
        wall = time.monotonic() - self._began - self._seconds['eval'] - self._seconds['save']
        host = wall - self._seconds['data'] - self._seconds['device']
        kinds = dict(tokens=self._tokens, places=self._places, unscored=self._unscored)
        own = {**kinds, **{f'counts/{name}': own for name, own in counts.items()}}
        own |= dict(share=share, wait=self._seconds['data'] / wall)
        parts = hosts.gather(f'window/{now}', own)
        tokens, places, unscored = (_total(parts, kind) for kind in kinds)
        values = {f'train/{name}': float(mean.value) for name, mean in self.means.items()}
        values |= {
            'perf/tokens_per_second': sum(tokens.values()) / wall,
            'perf/steps_per_second': self._steps / wall,
            'perf/host_ms': 1e3 * host / self._steps,
        }
        values |= _waits([part['wait'] for part in parts])
        values |= {f'data/{name}/unscored_rows': float(n) for name, n in unscored.items()}
        for name, count in tokens.items():
            values[f'data/{name}/filled'] = count / places[name]
            values[f'data/{name}/token_share'] = count / sum(tokens.values())
        for name in counts:
            values |= self._drawn(name, _total(parts, f'counts/{name}'))
        self.means = {}
        self._clear_clocks()
        return values

    def _drawn(self, stream: str, counts: Mapping[str, float]) -> dict[str, float]:
        """What a loader counted: documents dropped so far, and the share of each task's examples.

        Shares are of the examples drawn since the last log line.
        """
        examples = {name: n for name, n in counts.items() if name.startswith('examples/')}
        before = self._examples.get(stream, {})
        new = {name: n - before.get(name, 0) for name, n in examples.items()}
        self._examples[stream] = examples
        total = max(1, sum(new.values()))
        shares = {name.replace('examples/', 'rate/'): n / total for name, n in new.items()}
        values = {'dropped': float(counts.get('dropped', 0)), **shares}
        return {f'data/{stream}/{name}': value for name, value in values.items()}


def _total(parts, kind: str) -> dict[str, float]:
    """The counts of all hosts; where several read the same data, as if each were read once."""
    total = collections.Counter()
    for part in parts:
        total.update(part[kind])
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
