"""A run's report: one self-contained HTML page with curves, numbers, samples and config."""
# SPDX-License-Identifier: Apache-2.0

import datetime
import html
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from t5x_lite.errors import ConfigError, RunError
from t5x_lite.metrics import load_metrics, read_lines
from t5x_lite.report_time import DRAWN_ELSEWHERE, bars

# Read once: a run goes on where the files of the package change under it.
TEMPLATE = Path(__file__).with_name('report_template.html').read_text(encoding='utf-8')
MAX_POINTS = 600  # per drawn line
MAX_CARDS = 4
MAX_SAMPLE_STEPS, MAX_SAMPLES_A_STEP, MAX_SAMPLE_CHARS = 12, 20, 2000
GROUPS = ('Losses', 'Metrics', 'Optimisation', 'Performance')
LOSSES = ('loss', 'bits_per_byte', 'perplexity')
HEADLINES = ('bits_per_byte', 'recall', 'loss', 'accuracy')  # which held-out metric speaks first


class Curve(NamedTuple):
    """One metric over the run: steps_N (int) and finite values_N, plus how many were not finite."""

    steps: np.ndarray
    values: np.ndarray
    dropped: int


def write_report(run_dir: Path) -> Path:
    """Writes `run_dir/report.html`, atomically, and returns its path.

    Reads what is there of metrics.jsonl, run.json, experiment.py and samples.jsonl.
    Raises ConfigError if there is no such folder, RunError if one of the files is damaged.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise ConfigError(f'run folder: {str(run_dir)!r} is not a folder; give the --run of a run')
    path = run_dir / 'report.html'
    partial = run_dir / '.report.html.partial'
    partial.write_text(_page(run_dir), encoding='utf-8')
    partial.replace(path)
    return path


def _read_run(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise RunError(f'{path}: not JSON ({error}); mend or delete it') from error


def _page(run_dir: Path) -> str:
    def read(name, reader, absent):
        return reader(run_dir / name) if (run_dir / name).exists() else absent

    records = read('metrics.jsonl', load_metrics, [])
    run = read('run.json', _read_run, {})
    code = read('experiment.py', lambda path: path.read_text(encoding='utf-8'), '')
    samples = read('samples.jsonl', read_lines, [])
    curves, baselines = _references(_curves(records))
    parts = {
        'title': html.escape(str(run.get('name') or run_dir.resolve().name)),
        'subtitle': html.escape(str(run.get('description', ''))),
        'progress': _progress(records, run),
        'headlines': _headlines(curves, baselines),
        'facts': _facts(curves, records, run),
        'samples': _samples(samples),
        'time': bars(read('metrics.jsonl', read_lines, [])),
        'numbers': _numbers(curves),
        'config': html.escape(code),
        'environment': _environment(run),
        # "<" would let a metric's name close the script element.
        'data': json.dumps(_charts(curves, baselines)).replace('<', r'\u003c'),
    }
    return re.sub(r'\{\{(\w+)\}\}', lambda match: parts[match[1]], TEMPLATE)


def _curves(records: Iterable[Mapping[str, Any]]) -> dict[str, Curve]:
    points: dict[str, tuple[list, list]] = {}
    for record in records:
        for name, value in record.items():
            if name in ('step', 'time') or name.startswith(DRAWN_ELSEWHERE):
                continue
            if type(value) in (int, float):
                steps, values = points.setdefault(name, ([], []))
                steps.append(record['step'])
                values.append(value)
    curves = {}
    for name, (steps, values) in points.items():
        values = np.asarray(values, np.float64)
        finite = np.isfinite(values)
        curves[name] = Curve(np.asarray(steps)[finite], values[finite], int((~finite).sum()))
    return curves


def _references(curves: dict[str, Curve]) -> tuple[dict[str, Curve], dict[str, dict]]:
    """The curves to draw, and what a reference model reaches: {metric: {'unigram': value}}.

    `unigram_loss` is the reference of `loss`; `nll` is left out where it is the loss itself.
    """
    drawn, baselines = {}, {}
    for name, curve in curves.items():
        head, _, metric = name.rpartition('/')
        loss = curves.get(f'{head}/loss')
        if metric.startswith('unigram_') and len(curve.values):
            measured = f'{head}/{metric.removeprefix("unigram_")}'
            baselines[measured] = {'unigram': float(curve.values[-1])}
        elif metric != 'nll' or loss is None or not np.array_equal(loss.values, curve.values):
            drawn[name] = curve
    return drawn, baselines


def _charts(curves: Mapping[str, Curve], baselines: Mapping[str, Mapping]) -> list[dict]:
    """What the page draws: train and eval of one stream and metric share a chart."""
    charts: dict[tuple[str, str], dict] = {}
    for name, curve in curves.items():
        split, metric = name.split('/', 1) if '/' in name else ('', name)
        group = _group(split, metric)
        chart = charts.setdefault(
            (group, metric), {'group': group, 'name': metric, 'lines': [], 'baselines': {}}
        )
        chart['lines'].append({'split': split} | _line(curve, smooth=split != 'eval'))
        chart['baselines'] |= baselines.get(name, {})
    for chart in charts.values():
        chart['lines'].sort(key=lambda line: line['split'] == 'eval')  # drawn last, on top
    return sorted(charts.values(), key=lambda chart: GROUPS.index(chart['group']))


def _group(split: str, metric: str) -> str:
    if split == 'perf':
        return 'Performance'
    if metric.rpartition('/')[2].endswith(LOSSES):
        return 'Losses'
    return 'Optimisation' if split == 'train' and '/' not in metric else 'Metrics'


def _line(curve: Curve, smooth: bool) -> dict[str, Any]:
    x, y = curve.steps, curve.values
    line = _points(x, y) | {'dropped': curve.dropped}
    turns = np.diff(np.sign(np.diff(y)))
    if smooth and len(y) >= 50 and np.mean(turns != 0) > 0.1:  # noise, not a schedule
        line['smooth'] = _points(*_smooth(x, y))
    return line


def _points(x: np.ndarray, y: np.ndarray) -> dict[str, list]:
    """Up to MAX_POINTS of the points: first, last, and both extremes of each equal stretch."""
    if len(y) > MAX_POINTS:
        stretches = MAX_POINTS // 2 - 1
        width = -(-len(y) // stretches)
        rows = np.pad(y, (0, stretches * width - len(y)), mode='edge').reshape(stretches, width)
        starts = np.arange(stretches) * width
        keep = [starts + rows.argmin(axis=1), starts + rows.argmax(axis=1), [0, len(y) - 1]]
        keep = np.unique(np.minimum(np.concatenate(keep), len(y) - 1))
        x, y = x[keep], y[keep]
    return {'x': x.tolist(), 'y': [float(f'{value:.6g}') for value in y.tolist()]}


def _smooth(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of at most MAX_POINTS equal stretches, then two passes of a centred moving mean."""
    starts = np.arange(0, len(y), -(-len(y) // MAX_POINTS))
    sizes = np.diff(starts, append=len(y))
    y = np.add.reduceat(y, starts) / sizes
    window = np.ones(2 * (len(y) // 150) + 1)
    for _ in range(2):
        y = np.convolve(y, window, 'same') / np.convolve(np.ones(len(y)), window, 'same')
    return x[starts + sizes // 2], y


def _headlines(curves: Mapping[str, Curve], baselines: Mapping[str, Mapping]) -> str:
    """Cards of the final held-out metrics that say most."""
    names = [n for n, curve in curves.items() if n.startswith('eval/') and len(curve.values)]
    names = sorted(names, key=_headline_rank)[:MAX_CARDS]
    return ''.join(_headline(name, curves[name], baselines.get(name, {})) for name in names)


def _headline_rank(name: str) -> int:
    metric = name.rpartition('/')[2]
    return next((i for i, head in enumerate(HEADLINES) if metric.startswith(head)), len(HEADLINES))


def _headline(name: str, curve: Curve, baselines: Mapping[str, float]) -> str:
    title = name.partition('/')[2].replace('/', ' · ').replace('_', ' ')
    first, last = float(curve.values[0]), float(curve.values[-1])
    sign = '+' if last > first else '−' if last < first else ''
    change = f'{sign}{_short(abs(last - first))} since step {curve.steps[0]:,}'
    notes = [change] if len(curve.steps) > 1 else []
    notes += [f'{label} {_short(value)}' for label, value in baselines.items()]
    return (
        f'<div class="card" data-spark="{html.escape(name)}">'
        f'<h3>{html.escape(title)}, held out</h3>'
        f'<strong>{_short(last)}</strong><p>{html.escape(" · ".join(notes))}</p></div>'
    )


def _facts(curves: Mapping[str, Curve], records: list[dict], run: Mapping[str, Any]) -> str:
    facts = []
    absent = Curve(np.empty(0), np.empty(0), 0)
    if 'parameters' in run:
        facts.append(('parameters', _short(run['parameters'])))
    if 'tokens_per_step' in run and records:
        facts.append(('tokens seen', _short(run['tokens_per_step'] * records[-1]['step'])))
    if len(speed := curves.get('perf/tokens_per_second', absent).values):
        facts.append(('tokens/s, median', _short(float(np.median(speed)))))
    if len(times := [record['time'] for record in records if 'time' in record]) > 1:
        wall = datetime.timedelta(seconds=round(max(times) - min(times)))
        facts.append(('wall time, first to last log line', str(wall)))
    if len(wait := curves.get('perf/data_wait_share', absent).values):
        facts.append(('waiting for data, mean', f'{100 * wait.mean():.1f} %'))
    return ''.join(
        f'<div><dd>{html.escape(value)}</dd><dt>{label}</dt></div>' for label, value in facts
    )


def _progress(records: list[dict], run: Mapping[str, Any]) -> str:
    if not records:
        return 'No metrics yet.'
    step, steps = records[-1]['step'], run.get('steps')
    text = f'Step {step:,}' + (f' of {steps:,}' if steps else '')
    if 'time' in records[-1]:
        text += f' · {_date(records[-1]["time"])}'
    if steps and step < steps:
        text += f' <progress value="{step}" max="{steps}"></progress>'
    return text


def _samples(rows: list[dict]) -> str:
    """Tables of samples, the latest step first and open; a repeated step's later lines win."""
    steps: dict[int, dict] = {}
    for row in rows:
        steps.setdefault(row['step'], {})[row.get('stream'), row.get('prompt')] = row
    parts = []
    for i, step in enumerate(sorted(steps, reverse=True)[:MAX_SAMPLE_STEPS]):
        body = ''.join(map(_sample, list(steps[step].values())[:MAX_SAMPLES_A_STEP]))
        parts.append(
            f'<details{" open" if i == 0 else ""}><summary>Step {step:,}</summary><table>'
            '<thead><tr><th>stream<th>prompt<th>output<th>target</thead>'
            f'<tbody>{body}</tbody></table></details>'
        )
    if len(steps) > MAX_SAMPLE_STEPS:
        parts.append(f'<p>{len(steps) - MAX_SAMPLE_STEPS} earlier steps are in samples.jsonl.</p>')
    return ''.join(parts)


def _sample(row: Mapping[str, Any]) -> str:
    cells = ''
    for name in ('stream', 'prompt', 'output', 'target'):
        text = str(row.get(name) or '').strip('\n')
        text = text if len(text) <= MAX_SAMPLE_CHARS else text[:MAX_SAMPLE_CHARS] + ' …'
        cells += f'<td data-name="{name}"><div>{html.escape(text)}</div></td>'
    return f'<tr>{cells}</tr>'


def _numbers(curves: Mapping[str, Curve]) -> str:
    rows = ''
    for name in sorted(name for name in curves if len(curves[name].values)):
        y = curves[name].values
        cells = ''.join(f'<td>{_short(float(v))}</td>' for v in (y[0], y.min(), y.max(), y[-1]))
        rows += f'<tr><th>{html.escape(name)}</th>{cells}<td>{len(y):,}</td></tr>'
    return rows


def _environment(run: Mapping[str, Any]) -> str:
    rows = ''
    for name, value in run.items():
        if name in ('name', 'description'):
            continue
        if name == 'started' and type(value) in (int, float):
            value = _date(value)
        elif isinstance(value, Mapping):
            value = ', '.join(f'{key} {item}' for key, item in value.items())
        rows += f'<dt>{html.escape(name.replace("_", " "))}</dt><dd>{html.escape(str(value))}</dd>'
    return rows


def _short(value: float) -> str:
    """Four digits at most: 1.413, 0.0003, 61.4k, 6.29M."""
    for size, unit in ((1e12, 'T'), (1e9, 'B'), (1e6, 'M'), (1e4, 'k')):
        if abs(value) >= size:
            return f'{value / (1e3 if unit == "k" else size):.4g}{unit}'
    return f'{value:.4g}'


def _date(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime('%Y-%m-%d %H:%M UTC')
