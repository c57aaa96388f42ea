"""Collectives in a compiled program's text, and their bytes, loops counted as often as they run."""
# SPDX-License-Identifier: Apache-2.0

import collections
import functools
import math
import re
from typing import NamedTuple

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')
BITS = {'pred': 8, 'token': 0, 'c64': 64, 'c128': 128}
HEADER = re.compile(r'^(?:ENTRY )?%?([\w.$-]+) \(.*\) -> .* \{$')
OPERATION = re.compile(rf'= (.*?) ({"|".join(KINDS)})(-start)?\(')
SHAPE = re.compile(r'\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]')
CALLS = re.compile(r'\b(?:calls|to_apply|body|condition|called_computations)=\{?%?([\w.$-]+)')
BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
TRIPS = re.compile(r'known_trip_count"?:\s*\{\s*"?n"?:\s*"?(\d+)')
GROUPS = re.compile(r'replica_groups=(?:\[(\d+),(\d+)\]|\{\{([\d,]*)\})')


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
    """The collectives of the program whose text this is."""
    bodies, entry = _computations(text)
    unknown = set()

    @functools.cache
    def total(name: str) -> collections.Counter:
        out = collections.Counter()
        for line in bodies.get(name, ()):
            if found := OPERATION.search(line):
                result, sent = _bytes(found, line, 'reduce-scatter' in name)
                kind = 'reduce-scatter' if 'reduce-scatter' in name else found[2]
                for key, value in (('count', 1), ('result', result), ('sent', sent)):
                    out[kind, key] += value
                continue
            inside, times = _called(line), 1
            if ' while(' in line:
                trips = TRIPS.search(line)
                times = int(trips[1]) if trips else 1
                if not trips and any(total(called) for called in inside):
                    unknown.add(line)
            for called in inside:
                for key, value in total(called).items():
                    out[key] += times * value
        return out

    found = total(entry)
    kinds = [kind for kind in KINDS if found[kind, 'count']]
    fields = ('count', 'result', 'sent')
    return Found({k: Total(*(found[k, f] for f in fields)) for k in kinds}, len(unknown))


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
    group = GROUPS.search(line)
    ways = 2
    if group:
        ways = int(group[2]) if group[2] else len((group[3] or '').split(','))
    share = (ways - 1) / ways
    if kind == 'collective-permute':
        return result, result
    if kind == 'all-reduce' and not scattered:
        share *= 2
    if kind == 'reduce-scatter' and not started:
        share *= ways  # its result is one part of what is sent
    return result, int(result * share)


def _size(kind: str, dims: str) -> int:
    bits = BITS.get(kind) or int(re.sub(r'^[a-z]+(\d+).*$', r'\1', kind) if kind[-1:] else 0)
    return math.prod(int(d) for d in dims.split(',') if d) * bits // 8
