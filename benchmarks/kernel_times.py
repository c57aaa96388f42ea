"""Where a step spends its time on an accelerator: its kernels, by JAX's profiler."""
# SPDX-License-Identifier: Apache-2.0

import collections
import pathlib
import re
import tempfile

import jax

SHOWN = 24


def of(contestant, steps: int) -> dict[str, tuple[float, int]]:
    """Milliseconds and calls a step of every kernel, by its name and the operation it computes."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                contestant.dispatch()
            contestant.wait()
        (path,) = pathlib.Path(folder).rglob('*.xplane.pb')
        data = jax.profiler.ProfileData.from_file(str(path))
    took, calls = collections.Counter(), collections.Counter()
    for plane in data.planes:
        if not plane.name.startswith('/device:'):
            continue
        for line in plane.lines:
            if not line.name.startswith('Stream'):
                continue
            for event in line.events:
                name = _named(event)
                took[name] += event.duration_ns / 1e6 / steps
                calls[name] += 1
    return {name: (ms, round(calls[name] / steps)) for name, ms in took.most_common()}


def _named(event) -> str:
    """The kernel without its numbers, and the end of the path of the operation it computes."""
    stats = dict(event.stats)
    path = str(stats.get('name') or stats.get('tf_op') or '')
    kernel = re.sub(r'(_\d+)+\b', '', event.name)[:70]
    return f'{kernel}  {"/".join(path.split("/")[-3:])}'


def show(found: dict[str, tuple[float, int]]) -> None:
    """The longest, one a line."""
    total = sum(ms for ms, _ in found.values())
    print(f'{total:.2f} ms of kernels a step')
    for name, (ms, calls) in list(found.items())[:SHOWN]:
        print(f'{ms:8.2f} ms {ms / total:5.1%} {calls:5d} x {name}')
