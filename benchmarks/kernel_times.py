"""Where a step spends its time on an accelerator: its kernels, by JAX's profiler."""
# SPDX-License-Identifier: Apache-2.0

import collections
import pathlib
import re
import tempfile

import jax

SHOWN = 40


def of(contestant, steps: int) -> dict[str, tuple[float, int]]:
    """Milliseconds and calls a step of every kernel, by its name and the operation it computes."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                contestant.dispatch()
            contestant.wait()
        (path,) = pathlib.Path(folder).rglob('*.xplane.pb')
        data = jax.profiler.ProfileData.from_file(str(path))
    operations = _operations(contestant.compiled.as_text())
    took, calls = collections.Counter(), collections.Counter()
    for plane in data.planes:
        lines = plane.lines if plane.name.startswith('/device:') else ()
        for line in lines:
            for event in line.events if line.name.startswith('Stream') else ():
                name = _named(event, operations)
                took[name] += event.duration_ns / 1e6 / steps
                calls[name] += 1
    return {name: (ms, round(calls[name] / steps)) for name, ms in took.most_common()}


def _operations(text: str) -> dict[str, str]:
    """The path in the program of each instruction of a compiled module."""
    found = re.findall(r'^\s*(?:ROOT )?%?([\w.-]+) = .*?op_name="([^"]*)"', text, re.MULTILINE)
    return dict(found)


def _named(event, operations: dict[str, str]) -> str:
    """The kernel without its numbers, and the end of the path of the operation it computes."""
    instruction = str(dict(event.stats).get('hlo_op', ''))
    path = operations.get(instruction, instruction).split('/')
    turned = 'backward ' if any('transpose(' in part for part in path) else ''
    kernel = re.sub(r'(_\d+)+\b', '', event.name)[:50]
    return f'{kernel}  {turned}{"/".join(path[-3:])}'


def show(found: dict[str, tuple[float, int]]) -> None:
    """The longest, one a line."""
    total = sum(ms for ms, _ in found.values())
    print(f'{total:.2f} ms of kernels a step')
    for name, (ms, calls) in list(found.items())[:SHOWN]:
        print(f'{ms:8.2f} ms {ms / total:5.1%} {calls:5d} x {name}')
