"""Tokens, rows and statistics of data as one self-contained HTML page."""
# SPDX-License-Identifier: Apache-2.0

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from t5x_lite.data.cells import Cell, Column, Group, Row, visible
from t5x_lite.data.show import StepView, StreamView, TaskView, Value
from t5x_lite.data.stats import Histogram, MixtureStats, Stats, StreamStats

WORDS = {'+': 'new', '~': 'changed', '-': 'gone', '=': 'as before'}
LEGEND = (
    ('mask', '[MASK]', 'a mask'),
    ('sentinel', '<extra_id_0>', 'a sentinel'),
    ('special', '[CLS]', 'another special token'),
    ('mode', '[NLU]', 'a mode token'),
    ('replaced', '▁dog', 'replaced: not what stood there'),
    ('unk', '<unk>', 'unknown'),
)


def views_page(title: str, tasks: Sequence[TaskView], streams: Sequence[StreamView]) -> str:
    """What the model will see: rows of the streams, then the tasks' documents step by step."""
    parts = [_legend(), *map(_stream, streams), *map(_task, tasks)]
    return _page(title, 'What the model will see.', parts)


def stats_page(title: str, stats: Stats) -> str:
    """Numbers of tasks, mixtures and streams, with bars."""
    parts = [*map(_stream_stats, stats.streams.values()), *map(_mixture, stats.mixtures.values())]
    return _page(title, f'Numbers of the data, seed {stats.seed}.', parts)


def _page(title: str, subtitle: str, parts: Iterable[str]) -> str:
    template = Path(__file__).with_name('data_template.html').read_text(encoding='utf-8')
    fill = {
        'title': html.escape(title),
        'subtitle': html.escape(subtitle),
        'main': '\n'.join(parts),
    }
    return re.sub(r'\{\{(\w+)\}\}', lambda match: fill[match[1]], template)


def _legend() -> str:
    chip = lambda column: f'<span class="tokens" aria-hidden="true">{column}</span>'
    items = [
        f'<span>{chip(f"<b class={role}>{html.escape(text)}</b>")}{words}</span>'
        for role, text, words in LEGEND
    ]
    items += [
        f'<span>{chip("<b class=scored>▁was</b>")}a target that is scored</span>',
        f'<span>{chip("<span class=prefix><b>▁the</b></span>")}seen both ways (prefix)</span>',
        f'<span>{chip("<span class=begins><b>▁The</b></span>")}a new segment begins</span>',
        '<span>▁ is a space, ↵ a line break</span>',
        '<span>point at a token for its place, ids and numbers</span>',
    ]
    return f'<section class="panel legend" aria-label="legend">{"".join(items)}</section>'


def _task(view: TaskView) -> str:
    left = f'<p class="soft">{view.order()}</p>' if view.documents else ''
    left += ''.join(
        f'<p class="soft">{html.escape(visible(step))} left out {count:,} documents on the way.</p>'
        for step, count in view.left_out.items()
    )
    documents = ''.join(
        f'<details{"" if i else " open"}><summary>Document {i + 1}</summary>'
        f'<ol>{"".join(map(_step, steps))}</ol></details>'
        for i, steps in enumerate(view.documents)
    )
    name = html.escape(f'Task {view.name}, split {view.split}')
    documents = documents or '<p>No document reached the end.</p>'
    return f'<section><h2>{name}</h2>{left}{documents}</section>'


def _step(step: StepView) -> str:
    made = f' made {step.made} examples, of which the first:' if step.made > 1 else ''
    values = ''.join(map(_value, step.values))
    if all(value.change == '=' for value in step.values):
        body = '<p class="soft">= nothing changed</p>'
    else:
        body = f'<dl>{values}</dl>'
    name = html.escape(visible(step.name))
    return f'<li><h3><span class="mono">{name}</span>{made}</h3>{body}</li>'


def _value(value: Value) -> str:
    kind = f', {value.kind}' if value.kind else ''
    body = f'<span class="soft">{WORDS[value.change]}{html.escape(kind)}</span>'
    if value.change in '+~':
        body += f'<div class="text">{html.escape(_printable(value.text))}</div>'
        body += _group(value.tokens) if value.tokens else ''
    return f'<dt>{value.change} {html.escape(value.name)}</dt><dd>{body}</dd>'


def _printable(text: str) -> str:
    """The text with its line breaks; other control characters written out."""
    return '\n'.join(map(visible, text.split('\n')))


def _stream(view: StreamView) -> str:
    rows = ''.join(
        f'<details open><summary>Row {i}</summary>{_row(row)}</details>'
        for i, row in enumerate(view.rows, 1)
    )
    name = html.escape(f'Stream {view.name}')
    facts = _facts(view.facts)
    return f'<section><h2>{name}</h2><div class="panel">{facts}</div>{rows}</section>'


def _row(row: Row) -> str:
    groups = ''.join(
        f'<section><h3>{html.escape(group.name)}</h3>{_group(group)}</section>'
        for group in row.groups
    )
    others = f'<h3>other arrays</h3>{_facts(row.others)}' if row.others else ''
    return groups + others


def _group(group: Group) -> str:
    short = [name.removeprefix(f'{group.name}_').replace('_', ' ') for name in group.lines]
    names = ''.join(f'<i>{html.escape(name)}</i>' for name in short)
    columns = ''.join(_column(column, group, i) for i, column in enumerate(group.columns))
    facts = dict(group.summary)
    if group.padding:
        facts = {'padding': f'{group.padding:,} places follow', **facts}
    return f'<div class="tokens"><span class="names">{names}</span>{columns}</div>{_facts(facts)}'


def _column(column: Column, group: Group, place: int) -> str:
    hint = [f'place {place}']
    hint += [_hint(cell, name) for cell, name in zip(column.cells, group.lines, strict=True)]
    cells = ''.join(
        _cell(cell, column.scored and name.endswith('_target_tokens'))
        for cell, name in zip(column.cells, group.lines, strict=True)
    )
    flags = [name for name in ('begins', 'prefix') if getattr(column, name)]
    mark = f' class="{" ".join(flags)}"' if flags else ''
    return f'<span{mark} title="{"&#10;".join(map(html.escape, hint))}">{cells}</span>'


def _hint(cell: Cell, name: str) -> str:
    return f'{name}: {cell.text}' + ('' if cell.id is None else f' (id {cell.id}, {cell.role})')


def _cell(cell: Cell, scored: bool) -> str:
    tag = 'i' if cell.id is None else 'b'
    names = ' '.join([cell.role] * (cell.role != 'text') + ['scored'] * scored)
    mark = f' class="{names}"' if names else ''
    return f'<{tag}{mark}>{html.escape(cell.text)}</{tag}>'


def _facts(facts: Mapping[str, str]) -> str:
    rows = ''.join(
        f'<dt>{html.escape(name)}</dt><dd>{html.escape(visible(words))}</dd>'
        for name, words in facts.items()
    )
    return f'<dl>{rows}</dl>' if rows else ''


def _mixture(mixture: MixtureStats) -> str:
    parts = ''
    if len(mixture.tasks) > 1:
        name = html.escape(f'Mixture {mixture.name}')
        parts = f'<h2>{name}</h2><div class="panel">{_facts(mixture.facts())}</div>'
    for task in mixture.tasks.values():
        features = ''.join(
            f'<h3>{html.escape(name)}: length of a document in tokens</h3>'
            f'<div class="sides">{_facts(lengths.facts())}'
            f'<div class="scroll">{_bars(lengths.histogram)}</div></div>'
            for name, lengths in task.features.items()
        )
        name = html.escape(f'Task {task.name}, split {mixture.split}')
        parts += f'<h2>{name}</h2><div class="panel">{_facts(task.facts())}{features}</div>'
    return f'<section>{parts}</section>'


def _bars(histogram: Histogram) -> str:
    most = max(histogram.counts, default=0)
    rows = ''.join(
        f'<tr><th>{label}</th><td>{count:,}</td><td>{_bar(count / most)}</td></tr>'
        for label, count in zip(histogram.labels(), histogram.counts, strict=True)
    )
    return f'<table><tr><th>tokens<th>documents<th></tr>{rows}</table>'


def _bar(share: float) -> str:
    return f'<div class="bar" style="width:{share:.2%}"></div>'


def _stream_stats(stream: StreamStats) -> str:
    sides = ''.join(
        f'<div><h3>{html.escape(name)}</h3>{_facts(side.facts())}</div>'
        for name, side in stream.sides.items()
    )
    name = html.escape(f'Stream {stream.name}')
    body = f'{_facts(stream.facts())}<div class="sides">{sides}</div>'
    return f'<section><h2>{name}</h2><div class="panel">{body}</div></section>'
