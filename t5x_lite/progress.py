"""What a run says while it goes: a live bar on a terminal, plain lines in a log file."""
# SPDX-License-Identifier: Apache-2.0

import sys
import time
from collections.abc import Mapping

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class Reporter:
    """Shows steps, loss, tokens per second, data wait and the time left; `say` prints a line.

    A quiet one says nothing: of several hosts one speaks.
    """

    def __init__(self, last: int, *, quiet: bool = False):
        self._quiet = quiet
        self._last = last
        self._first = self._started = None  # the first step, and when it was done
        self._bar = None
        if sys.stdout.isatty() and not quiet:
            columns = (BarColumn(), TextColumn('{task.description}'), TimeElapsedColumn())
            self._bar = Progress(*columns)
            self._task = self._bar.add_task('compiling', total=last)
            self._bar.start()

    def started(self, step: int, stages: Mapping[str, float], beside: float) -> None:
        """Says how long the first step took to come, and counts the time left from it on.

        `stages` are the seconds of what was done one after the other, `beside` those of opening
        the data in a thread beside the stages before `data`.
        """
        self._first, self._started = step, time.monotonic()
        more = {'data': f'(of {beside:.1f} beside trace, compile and weights) '}
        told = (f'{name} {more.get(name, "")}{seconds:.1f}' for name, seconds in stages.items())
        self.say(f'first step after {duration(sum(stages.values()))}: {", ".join(told)} s')

    def update(self, step: int, values: Mapping[str, float]) -> None:
        line = self._line(step, values)
        if self._quiet:
            return
        if self._bar:
            self._bar.update(self._task, completed=step, description=line)
        else:
            print(line, flush=True)

    def say(self, text: str) -> None:
        if self._quiet:
            return
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()

    def _line(self, step: int, values: Mapping[str, float]) -> str:
        spent = time.monotonic() - self._started
        left = spent / max(step - self._first, 1) * (self._last - step)
        return (
            f'step {step}/{self._last}  loss {values["train/loss"]:.4f}  '
            f'{values["perf/tokens_per_second"]:,.0f} tok/s  '
            f'data wait {values["perf/data_wait_share"]:.1%}  eta {duration(left)}'
        )


def duration(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'
