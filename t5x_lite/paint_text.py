"""Tokens, rows and statistics of data drawn as text, in colour where a terminal shows colour."""
# SPDX-License-Identifier: Apache-2.0

import os
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from rich.cells import cell_len

from t5x_lite.data.cells import TARGETS, Column, Group, Row, visible
from t5x_lite.data.show import StepView, StreamView, TaskView, Value
from t5x_lite.data.stats import Histogram, MixtureStats, Stats, StreamStats, TaskStats

STYLES = {
    'mask': '1;35',
    'sentinel': '1;33',
    'mode': '1;32',
    **dict.fromkeys(('bos', 'eos', 'cls', 'sep', 'special'), '36'),
    **dict.fromkeys(('unk', 'outside'), '1;7;31'),
    **dict.fromkeys(('replaced', 'change'), '1;31'),
    **dict.fromkeys(('pad', 'off', 'soft'), '2'),
    **dict.fromkeys(('on', 'strong'), '1'),
    'weight': '1;33',
    'prefix': '1;36',
    'type': '1;34',
    'segment': '32',
    'next': '35',
}
"""ANSI styles by role. No role has a colour alone: names, numbers and words say the same."""

SAMPLE = 300  # characters of a text
PLACES, PIECES = 120, 40
BAR = 40  # characters of the longest bar
LEGEND = (
    'Under each token stands what is at its place in the other arrays. | before a token: a new '
    'segment begins. * after a target: it is scored (no star where all are). Arrays of equal '
    'values or of positions are described below. ▁ is a space, ↵ a line break.'
)


def in_colour() -> bool:
    """Whether stdout shows ANSI colours and NO_COLOR (no-color.org) does not forbid them."""
    plain = os.environ.get('NO_COLOR') or os.environ.get('TERM') == 'dumb'
    return sys.stdout.isatty() and not plain


class Painter:
    """Draws views as lines of text of at most `width` characters.

    `places` of each row and feature are drawn; None: PLACES of a row, PIECES of a feature.
    """

    def __init__(self, *, colour: bool, width: int = 100, places: int | None = None):
        self._colour, self._width = colour, max(width, 40)
        self._places, self._pieces = places or PLACES, places or PIECES

    def ink(self, text: str, role: str, *, underline: bool = False) -> str:
        style = ';'.join(filter(None, (STYLES.get(role), '4' if underline else '')))
        return f'\x1b[{style}m{text}\x1b[0m' if self._colour and style else text

    def task(self, view: TaskView) -> Iterator[str]:
        yield self.ink(f'task {view.name}, split {view.split}', 'strong')
        for step, count in view.left_out.items():
            yield f'  {step} left out {count:,} documents on the way'
        yield f'  {view.order()}' if view.documents else '  No document reached the end.'
        for i, steps in enumerate(view.documents, 1):
            yield ''
            yield self.ink(f'document {i}', 'strong')
            for number, step in enumerate(steps):
                yield from self._step(number, step)

    def _step(self, number: int, step: StepView) -> Iterator[str]:
        made = f'  made {step.made} examples, of which the first:' if step.made > 1 else ''
        yield f'{number or " "} {self.ink(visible(step.name), "strong")}{made}'
        if all(value.change == '=' for value in step.values):
            yield self.ink('    = nothing changed', 'soft')
            return
        for value in step.values:
            yield from self._value(value)

    def _value(self, value: Value) -> Iterator[str]:
        words = {'+': 'new', '~': 'changed', '-': 'gone', '=': 'as before'}[value.change]
        kind = f', {value.kind}' if value.kind else ''
        yield f'    {value.change} {value.name}: {words}{kind}'
        if value.change in '-=':
            return
        indent = ' ' * 6
        text = visible(value.text[:SAMPLE]) + ' …' * (len(value.text) > SAMPLE)
        for line in textwrap.wrap(text, self._width - len(indent)):
            yield indent + line
        if value.tokens:
            yield from self._group(value.tokens, indent, self._pieces)

    def stream(self, view: StreamView) -> Iterator[str]:
        yield self.ink(f'stream {view.name}', 'strong')
        yield from self._facts(view.facts)
        yield from textwrap.wrap(LEGEND, self._width)
        for i, row in enumerate(view.rows, 1):
            yield ''
            yield self.ink(f'row {i}', 'strong')
            yield from self._row(row)

    def _facts(self, facts: Mapping[str, str]) -> Iterator[str]:
        wide = max(map(len, facts), default=0) + 2
        for name, value in facts.items():
            indent = ' ' * (wide + 2)
            lines = textwrap.wrap(visible(value), max(self._width - len(indent), 20)) or ['']
            yield f'  {name:{wide}}{lines[0]}'
            yield from (indent + line for line in lines[1:])

    def _row(self, row: Row) -> Iterator[str]:
        for group in row.groups:
            yield f'  {self.ink(group.name, "strong")}'
            yield from self._group(group, '    ', self._places)
        yield from self._facts(row.others)

    def _group(self, group: Group, indent: str, places: int) -> Iterator[str]:
        names = [name.removeprefix(f'{group.name}_') for name in group.lines]
        wide = max(map(len, names), default=0) + 2
        shown = group.columns[:places]
        room = self._width - len(indent) - wide
        for block in _blocks(_starred(shown, group), room):
            for k, name in enumerate(names):
                target = group.lines[k].endswith(TARGETS)
                cells = ''.join(self._cell(place, k, target) for place in block)
                yield indent + self.ink(f'{name:{wide}}', 'soft') + cells.rstrip()
            if len(names) > 1:
                yield ''
        rest = len(group.columns) - len(shown)
        if rest:
            yield f'{indent}and {rest:,} more places; --tokens={len(group.columns)} draws them'
        if group.padding:
            yield f'{indent}then {group.padding:,} of padding'
        for name, words in group.summary.items():
            yield f'{indent}{self.ink(name, "soft")}: {words}'

    def _cell(self, place: tuple[Column, list[str], int], k: int, target: bool) -> str:
        column, texts, width = place
        scored = target and column.scored
        role = 'on' if scored and column.cells[k].role == 'text' else column.cells[k].role
        drawn = self.ink(texts[k], role, underline=scored)
        return ('|' if column.begins else ' ') + drawn + ' ' * (width - cell_len(texts[k]))

    def stats(self, stats: Stats) -> Iterator[str]:
        for mixture in stats.mixtures.values():
            yield from self._mixture(mixture)
        for stream in stats.streams.values():
            yield from self._stream_stats(stream)

    def _mixture(self, mixture: MixtureStats) -> Iterator[str]:
        for task in mixture.tasks.values():
            yield from self._task_stats(task, mixture)
            yield ''
        if len(mixture.tasks) > 1:
            yield self.ink(f'mixture {mixture.name}', 'strong')
            yield from self._facts(mixture.facts())
            yield ''

    def _task_stats(self, task: TaskStats, mixture: MixtureStats) -> Iterator[str]:
        yield self.ink(f'task {task.name}, split {mixture.split}', 'strong')
        yield from self._facts(task.facts())
        for name, lengths in task.features.items():
            yield f'  {name}: {self.ink("length of a document in tokens", "soft")}'
            yield from self._facts(lengths.facts())
            yield from self._bars(lengths.histogram)

    def _bars(self, histogram: Histogram) -> Iterator[str]:
        most = max(histogram.counts, default=0)
        labels = histogram.labels()
        wide = max(map(len, labels), default=0)
        bar = max(min(BAR, self._width - wide - 14), 8)
        for label, count in zip(labels, histogram.counts, strict=True):
            length = -(-count * bar // most) if most else 0
            yield f'    {label:>{wide}}  {self.ink("█" * length, "sentinel")} {count:,}'

    def _stream_stats(self, stream: StreamStats) -> Iterator[str]:
        yield self.ink(f'stream {stream.name}', 'strong')
        yield from self._facts(stream.facts())
        for name, side in stream.sides.items():
            yield f'  {self.ink(name, "strong")}'
            yield from self._facts(side.facts())
        yield ''


def _starred(columns: Sequence[Column], group: Group) -> Iterator[tuple[Column, list[str], int]]:
    """Columns with the texts of their cells, a star at scored targets, and their width."""
    stars = not all(column.scored for column in group.columns)
    ends = ['*' * (stars and line.endswith(TARGETS)) for line in group.lines]
    for column in columns:
        cells = zip(column.cells, ends, strict=True)
        texts = [cell.text + end * column.scored for cell, end in cells]
        yield column, texts, max(map(cell_len, texts))


def _blocks(
    places: Iterator[tuple[Column, list[str], int]], room: int
) -> Iterator[list[tuple[Column, list[str], int]]]:
    """As many places as fit beside each other."""
    block, spent = [], 0
    for place in places:
        if block and spent + place[2] + 1 > room:
            yield block
            block, spent = [], 0
        block.append(place)
        spent += place[2] + 1
    if block:
        yield block
