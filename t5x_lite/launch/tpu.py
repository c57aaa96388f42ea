"""Runs a queued resource of TPUs: made, prepared, followed, and made again when preempted."""
# SPDX-License-Identifier: Apache-2.0

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from t5x_lite.errors import ConfigError, RunError
from t5x_lite.launch.gcloud import Gcloud

READY, LOST = 'ACTIVE', ('SUSPENDED', 'FAILED')
TRIES = 3  # of a command on the hosts, and of the first question about the state
LOOKS = 3  # at the state after a run that ended early: was it the beginning of a preemption?
SILENT = 20  # connections, or questions about the state, one after the other without an answer
SOME = 'Could not prepare all'  # gcloud's warning, with status 0, that it left out slices
ENDED = 'launch: ended '  # host.sh's last line
STOPPED = '143'  # its status of a run that SIGTERM ended: saved, not finished


# What is typed here is not for ssh.
TEXT = dict(stdin=subprocess.DEVNULL, text=True, errors='replace')


class Preempted(Exception):
    """The TPU is not ACTIVE any more; `str` of it is its state."""


def dry_run(gcloud: Gcloud) -> Iterator[str]:
    """What `Launcher.run` would do with a name that is not taken, as lines for a shell."""
    steps = [
        ('is it there?', gcloud.describe()),
        ('if not', gcloud.create()),
        (f'again and again, until it is {READY}', gcloud.describe()),
        *gcloud.prepare(),
        ("host 0's log, until the run ends", gcloud.follow(1)),
    ]
    for what, command in steps:
        yield f'# {what}'
        yield shlex.join(command)
    yield f'# when it is {" or ".join(LOST)}: this, and all of it again'
    yield f'# {shlex.join(gcloud.delete())}'


def say(text: str) -> None:
    print(f'launch: {text}', file=sys.stderr, flush=True)


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """Runs the commands; `poll` is the seconds between two looks at the state."""

    gcloud: Gcloud
    poll: float
    again: str  # the command line that comes back to the run

    def run(self) -> None:
        """Returns when the run has ended, however often the TPU was preempted.

        Raises:
          ConfigError: a resource of that name is there and is of another type.
          RunError: gcloud or the run failed; the message says what is left, and how to remove it.
        """
        try:
            while not self._once_through():
                pass
        except KeyboardInterrupt:
            say(f'interrupted; what was started on {self.gcloud.name} goes on. {self._next()}')
            raise

    def _once_through(self) -> bool:
        """From a name to the end of the run; False: the TPU was preempted on the way."""
        try:
            fresh = self._bring_up()
            if fresh or not self._runs():
                self._begin()
            self._follow()
            return True
        except Preempted as state:
            say(f'{self.gcloud.name} is {state}: preempted; it is made again, the run goes on')
            return False

    def _bring_up(self) -> bool:
        """Waits until the resource is ACTIVE, and says whether it had to be made for that."""
        fresh, told = False, None
        while (state := self._state()) != READY:
            if fresh and state == 'FAILED':
                why = f'why: {shlex.join(self.gcloud.explain())}'
                raise RunError(f'{self.gcloud.name}: is {state}; {why}\n{self._left()}')
            if state in LOST:
                say(f'{self.gcloud.name} is {state}: it is deleted')
                self._once('delete', self.gcloud.delete())
                fresh = False
            elif state is None and fresh:
                raise RunError(f'{self.gcloud.name}: was deleted while it was waited for')
            elif state is None:
                say(f'makes {self.gcloud.name}: {self.gcloud.machine.target.name}')
                self._once('create', self.gcloud.create())
                fresh = True
            else:
                if state != told:
                    say(f'{self.gcloud.name} is {state}')
                told = state
                time.sleep(self.poll)
        say(f'{self.gcloud.name} is {READY}')
        return fresh

    def _runs(self) -> bool:
        """Whether the run is going on a TPU that was there."""
        going = self._tried('status', self.gcloud.status()).strip() == 'running'
        if going:
            say('its run is going: follows it; the packed files are not sent')
        return going

    def _begin(self) -> None:
        for what, command in self.gcloud.prepare():
            say(f'{what}, on all hosts')
            self._tried(what, command)

    def _follow(self) -> None:
        """Prints host 0's log until the run ends; a lost connection is made again."""
        line, silent, end = 1, 0, None
        while True:
            count, end = self._tail(line)
            line, silent = line + count, 0 if count else silent + 1
            if end is not None:
                break
            self._check_ready()
            if silent >= SILENT:
                raise RunError(f'{self.gcloud.name}: host 0 does not answer. {self._left()}')
            say('the connection to host 0 is lost: again')
            time.sleep(self.poll)
        if end != '0':
            self._check_end(end)
        say(f'done. {self._left()}')

    def _tail(self, line: int) -> tuple[int, str | None]:
        """Lines printed, and the status the run ended with; None: the connection was lost."""
        count = 0
        command = self.gcloud.follow(line)
        with subprocess.Popen(command, stdout=subprocess.PIPE, **TEXT) as process:
            for text in process.stdout:
                if text.startswith(ENDED):
                    return count, text.removeprefix(ENDED).strip()
                print(text, end='', flush=True)
                count += 1
        return count, None

    def _check_end(self, status: str) -> None:
        """RunError if the run failed by itself, Preempted if its TPU is being taken away."""
        for _ in range(LOOKS):
            self._check_ready()
            time.sleep(self.poll)
        if status == STOPPED:
            say(f'stopped by SIGTERM and saved; to go on: {self.again}')
            return
        raise RunError(
            f'{self.gcloud.name}: the run ended with status {status}, its log is above. When that '
            f'is mended: {self.again}. {self._left()}'
        )

    def _check_ready(self) -> None:
        if (state := self._state(SILENT)) != READY:
            raise Preempted(state or 'gone')

    def _state(self, tries: int = TRIES) -> str | None:
        """The state of the resource, None if there is none of that name."""
        for _ in range(tries):
            done = self._call(self.gcloud.describe())
            if done.returncode == 0 and done.stdout.strip():
                state, *kind = done.stdout.split()
                self._check_kind(kind)
                return state
            if 'NOT_FOUND' in done.stderr or 'not found' in done.stderr.lower():
                return None
            say(f'the state of {self.gcloud.name} is not known: {_last(done.stderr)}')
            time.sleep(self.poll)
        told = f'its state is not known: {done.stderr.strip()}'
        raise RunError(f'{self.gcloud.name}: {told}\n{self._next()}')

    def _check_kind(self, found: list[str]) -> None:
        wanted = self.gcloud.machine.accelerator_type
        if found and found != [wanted]:
            raise ConfigError(
                f'--name {self.gcloud.name}: is there and is {found[0]}, not {wanted}; name '
                f'another, or remove it: {shlex.join(self.gcloud.delete())}'
            )

    def _tried(self, what: str, command: list[str]) -> str:
        """What the command printed; hosts that are still booting refuse the first tries."""
        for attempt in range(1, TRIES + 1):
            done = self._call(command)
            if done.returncode == 0 and SOME not in done.stderr:
                return done.stdout
            self._check_ready()
            say(f'{what} failed ({attempt} of {TRIES}): {_last(done.stderr)}')
            if attempt < TRIES:
                time.sleep(self.poll)
        told = f'{what} failed {TRIES} times: {done.stderr.strip()}'
        raise RunError(f'{self.gcloud.name}: {told}\n{self._left()}')

    def _once(self, what: str, command: list[str]) -> None:
        done = self._call(command)
        if done.returncode:
            raise RunError(
                f'{self.gcloud.name}: {what} failed: {done.stderr.strip()}\n'
                f'If it is there all the same, remove it: {shlex.join(self.gcloud.delete())}'
            )

    def _call(self, command: list[str]) -> subprocess.CompletedProcess:
        try:
            return subprocess.run(command, capture_output=True, **TEXT)
        except FileNotFoundError as error:
            raise ConfigError(
                'gcloud: is not installed here; see cloud.google.com/sdk/docs/install, then '
                'gcloud auth login'
            ) from error

    def _next(self) -> str:
        return (
            f'To come back: {self.again}\nTo stop it and keep the TPU: '
            f'{shlex.join(self.gcloud.stop())}\n{self._left()}'
        )

    def _left(self) -> str:
        return f'The TPU is paid for until it is removed: {shlex.join(self.gcloud.delete())}'


def _last(text: str) -> str:
    """The last line that says something."""
    return ([line for line in text.splitlines() if line.strip()] or ['no message'])[-1].strip()
