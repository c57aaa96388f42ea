"""What a record says of its run: device, versions, load before it, date, command; peak memory."""
# SPDX-License-Identifier: Apache-2.0

import datetime
import os
import pathlib
import platform
import resource
import shlex
import sys

import flax
import jax
import numpy as np
import optax

QUIET = 0.3  # load of the last minute; above it PyTorch's threads wait for each other on a CPU


def load() -> float:
    """How many processes wanted to run in the last minute; ask before anything is compiled."""
    return os.getloadavg()[0]


def quiet(load_before: float) -> bool:
    """Whether times of different programs may be compared: nothing else ran, or it is no CPU."""
    return load_before <= QUIET or jax.default_backend() != 'cpu'


def of_run(module: str, arguments, load_before: float) -> dict:
    """The fields that every record has; `arguments` are those of the command line."""
    return {
        'device': device_name(),
        'cores': os.cpu_count(),
        'versions': versions(),
        'load_before': round(load_before, 2),
        'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='minutes'),
        'command': shlex.join(['python', '-m', f'benchmarks.{module}', *arguments]),
    }


def device_name() -> str:
    device = jax.devices()[0]
    if device.platform != 'cpu':
        return f'{jax.device_count()} x {device.device_kind}'
    info = pathlib.Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return f'{models[0] if models else platform.machine()}, {os.cpu_count()} cores'


def versions() -> dict[str, str]:
    known = {module.__name__: module.__version__ for module in (jax, flax, optax, np)}
    return {'python': platform.python_version(), **known}


def peak_memory() -> dict:
    """Bytes so far, and what they are: of the device, or this process's largest resident size."""
    stats = jax.devices()[0].memory_stats()
    if stats and 'peak_bytes_in_use' in stats:
        return {'memory_bytes': stats['peak_bytes_in_use'], 'memory_is': 'of device 0'}
    return {'memory_bytes': peak_rss(), 'memory_is': 'RSS, with compilation'}


def peak_rss() -> int:
    """Largest resident size of this process in bytes.

    Linux's own count of this program; getrusage's begins with the size of the process that started
    it.
    """
    status = pathlib.Path('/proc/self/status')
    if status.exists():
        return _kilobytes(status, 'VmHWM')
    unit = 1 if sys.platform == 'darwin' else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def rss() -> int:
    """Resident size of this process in bytes now; of Linux alone, elsewhere 0."""
    status = pathlib.Path('/proc/self/status')
    return _kilobytes(status, 'VmRSS') if status.exists() else 0


def _kilobytes(status: pathlib.Path, name: str) -> int:
    (line,) = (x for x in status.read_text().splitlines() if x.startswith(f'{name}:'))
    return 1024 * int(line.split()[1])
