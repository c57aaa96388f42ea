"""Plots of the records in benchmarks/results/, as SVG files in docs/images/."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import json
import pathlib
import sys

RESULTS, IMAGES = pathlib.Path('benchmarks/results'), pathlib.Path('docs/images')
OURS, THEIRS = '#1f6f8b', '#b8b8b8'


def records(folder: pathlib.Path) -> dict[str, dict]:
    """All records of the folder by the name of their file."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob('*.json'))}


def peer_rows(found: dict[str, dict]) -> list[tuple[str, dict[str, float]]]:
    """(model, {side: milliseconds a step}) of each record with peers and a quotient."""
    rows = []
    for name, record in found.items():
        if record.get('ratio') and 'peers' in record:
            times = {kind: other['step_ms'] for kind, other in record['peers'].items()}
            rows.append((name, {'t5x_lite': record['step_ms'], **times}))
    return rows


def memory_rows(found: dict[str, dict]) -> list[tuple[str, dict[str, float]]]:
    """(model, {side: GiB of a process of its own}) of each record with peers."""
    rows = []
    for name, record in found.items():
        if 'peers' in record:
            sides = {'t5x_lite': record['alone']}
            sides |= {kind: other['alone'] for kind, other in record['peers'].items()}
            rows.append((name, {k: side['memory_bytes'] / 2**30 for k, side in sides.items()}))
    return rows


def attention_lines(record: dict) -> dict[str, list[tuple[int, float]]]:
    """{path: [(length, MiB of temporaries)]}."""
    lines = {}
    for row in record['rows']:
        point = row['length'], row['temporaries'] / 2**20
        lines.setdefault(row['path'], []).append(point)
    return lines


def bars(axes, rows, label: str) -> None:
    """A group of bars a model, a bar a side, its value written at the end."""
    sides = list(dict.fromkeys(side for _, values in rows for side in values))
    height = 0.8 / len(sides)
    for i, side in enumerate(sides):
        places = [j + i * height for j in range(len(rows))]
        values = [row.get(side, 0.0) for _, row in rows]
        color = OURS if side == 't5x_lite' else THEIRS
        drawn = axes.barh(places, values, 0.9 * height, color=color, label=side, alpha=1 - i / 5)
        axes.bar_label(drawn, fmt=lambda x: f'{x:,.0f}' if x >= 100 else f'{x:.2f}', padding=3)
    axes.set_yticks([j + 0.4 - height / 2 for j in range(len(rows))], [name for name, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.margins(x=0.12)
    axes.legend(frameon=False)


def attention(axes, record: dict) -> None:
    """Temporaries by length of each path."""
    for path, points in attention_lines(record).items():
        color = OURS if path == 'flash' else THEIRS
        axes.plot(*zip(*points, strict=True), marker='o', color=color, label=path)
    axes.set_xscale('log', base=2)
    axes.set_yscale('symlog', linthresh=10)  # logarithmic, with a place for 0
    axes.set_ylim(-1, 2 * max(row['temporaries'] for row in record['rows']) / 2**20)
    lengths = sorted({row['length'] for row in record['rows']})
    axes.set_xticks(lengths, [f'{length:,}' for length in lengths])
    axes.set_xlabel('tokens of a row')
    axes.set_ylabel('temporaries, MiB')
    axes.set_title(
        f"Attention with T5's bias, {record['device'].removeprefix('none: ')}", fontsize=9
    )
    axes.legend(frameon=False)


def drawings(found: dict[str, dict]) -> dict:
    """{file: function of its axes} of what the records allow."""
    out = {}
    if rows := peer_rows(found):
        out['peers'] = lambda axes: bars(axes, rows, 'ms a step')
    if sizes := memory_rows(found):
        out['peers_memory'] = lambda axes: bars(axes, sizes, 'GiB at most, a process each')
    if rows := peer_rows(found.get('h100_peers', {}).get('cases', {})):
        out['peers_h100'] = lambda axes: bars(axes, rows, 'ms a step, one H100')
    if record := found.get('attention_tpu'):
        out['attention_memory'] = lambda axes: attention(axes, record)
    return out


def save(draw, path: pathlib.Path) -> None:
    """One SVG file whose text stays text, the same bytes each time."""
    import matplotlib

    matplotlib.use('svg')
    matplotlib.rcParams |= {'svg.fonttype': 'none', 'svg.hashsalt': path.stem}
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout='constrained')
    axes.spines[['top', 'right']].set_visible(False)
    draw(axes)
    figure.savefig(path, metadata={'Date': None})
    pyplot.close(figure)


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.plots', description=__doc__)
    parser.add_argument('--results', type=pathlib.Path, default=RESULTS)
    parser.add_argument('--images', type=pathlib.Path, default=IMAGES)
    options = parser.parse_args(arguments)
    found = drawings(records(options.results))
    if not found:
        print(f'error: {options.results} has no record to draw', file=sys.stderr)
        sys.exit(2)
    options.images.mkdir(parents=True, exist_ok=True)
    for name, draw in found.items():
        save(draw, options.images / f'{name}.svg')
        print(options.images / f'{name}.svg')


if __name__ == '__main__':
    main()
