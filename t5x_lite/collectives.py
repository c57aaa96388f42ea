"""Collectives in a compiled program's text, and their bytes, loops counted as often as they run."""
# SPDX-License-Identifier: Apache-2.0

import functools
import math
import re
from typing import NamedTuple

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')
HEADER = re.compile(r'^(?:ENTRY )?%?([\w.$-]+) \(.*\) -> .* \{$')
OPERATION = re.compile(rf'= (.*?) ({"|".join(KINDS)})(-start)?\(')
SHAPE = re.compile(r'\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]')
CALLS = re.compile(r'\b(?:calls|to_apply|body|condition|called_computations)=\{?%?([\w.$-]+)')
BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
TRIPS = re.compile(r'known_trip_count"?:\s*\{\s*"?n"?:\s*"?(\d+)')
LIMIT = re.compile(r'= [su]32\[\]\S* constant\((\d+)\)')
CHANNEL = re.compile(r'channel_id=(\d+)')
LISTED = re.compile(r'replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]*)\})')
NAMED = re.compile(r'replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}')


class Total(NamedTuple):
    """How often a kind runs in a step, bytes of its results, and bytes that a device sends."""

    count: int
    result: int
    sent: int


class Found(NamedTuple):
    """Totals by kind; `unknown_loops` is how many loops with collectives were counted once."""

    totals: dict[str, Total]
    unknown_loops: int

    @property
    def sent(self) -> int:
        return sum(total.sent for total in self.totals.values())


def count(text: str) -> Found:
    """The collectives of the program whose text this is.

    One that is spread over several fusions, to run beside others, has one channel: it counts once.
    """
    bodies, entry = _computations(text)
    unknown = set()

    @functools.cache
    def inside(name: str) -> dict[str, tuple]:
        """{channel: (kind, how often, bytes of the result, bytes sent)}."""
        out = {}
        for line in bodies.get(name, ()):
            if found := OPERATION.search(line):
                scattered = 'reduce-scatter' in name
                kind = 'reduce-scatter' if scattered else found[2]
                channel = CHANNEL.search(line)
                key = channel[1] if channel else f'{name}: {line}'
                out[key] = max(out.get(key, ()), (kind, 1, *_bytes(found, line, scattered)))
                continue
            called, times = {}, 1
            for callee in _called(line):
                called |= inside(callee)
            if called and ' while(' in line:
                times = _turns(line, bodies)
                unknown.update([] if times else [line])
            for key, (kind, often, *sizes) in called.items():
                out[key] = max(out.get(key, ()), (kind, often * (times or 1), *sizes))
        return out

    totals = {}
    for kind, often, *sizes in inside(entry).values():
        old = totals.get(kind, (0, 0, 0))
        new = (often, *(often * size for size in sizes))
        totals[kind] = Total(*(a + b for a, b in zip(old, new, strict=True)))
    return Found({kind: totals[kind] for kind in KINDS if kind in totals}, len(unknown))


def _turns(line: str, bodies) -> int | None:
    """How often a loop runs: as noted, or up to the only number that its condition knows."""
    if noted := TRIPS.search(line):
        return int(noted[1])
    condition = re.search(r'condition=%?([\w.$-]+)', line)
    limits = LIMIT.findall('\n'.join(bodies.get(condition[1], ()))) if condition else []
    return int(limits[0]) if len(limits) == 1 else None


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Each computation's lines by its name, and the name of the first to run."""
    bodies, entry, name = {}, '', ''
    for line in text.splitlines():
        if header := HEADER.match(line):
            name = header[1]
            bodies[name] = []
            entry = name if line.startswith('ENTRY') else entry
        elif line.startswith('}'):
            name = ''
        elif name:
            bodies[name].append(line)
    return bodies, entry


def _called(line: str) -> list[str]:
    names = CALLS.findall(line)
    for group in BRANCHES.findall(line):
        names += [name.strip().lstrip('%') for name in group.split(',')]
    return names


def _bytes(found, line: str, scattered: bool) -> tuple[int, int]:
    """Bytes of the result, and what a ring sends from each device for it."""
    shape, kind, started = found.groups()
    sizes = [_size(*parts) for parts in SHAPE.findall(shape)]
    # What was started holds operands and results; the larger one is what is gathered.
    result = max(sizes, default=0) if started else sum(sizes)
    if kind == 'collective-permute':
        return result, result
    ways = _ways(line)
    share = (ways - 1) / ways
    if kind == 'all-reduce' and not scattered:
        share *= 2
    if kind == 'reduce-scatter' and not started:
        share *= ways  # its result is one part of what is sent
    return result, int(result * share)


def _ways(line: str) -> int:
    """Devices in a group: two if that is not said."""
    if named := NAMED.search(line):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", named[2]))
    if listed := LISTED.search(line):
        return int(listed[1]) if listed[1] else len(listed[2].split(','))
    return 2


def _size(kind: str, dims: str) -> int:
    """Bytes of an array such as bf16[8,128]; 0 for a token."""
    bits = 8 if kind == 'pred' else int((re.findall(r'\d+', kind) or ['0'])[0])
    return math.prod(int(d) for d in dims.split(',') if d) * bits // 8
