"""A report's bars: where the time of a run went, and that of its last start."""
# SPDX-License-Identifier: Apache-2.0

import html
from collections.abc import Iterable, Mapping
from typing import Any

from t5x_lite import stopwatch
from t5x_lite.stopwatch import ACCOUNT, PARTS, STAGES, START

DRAWN_ELSEWHERE = (ACCOUNT, START)  # prefixes of metrics that are no curves


def bars(rows: Iterable[Mapping[str, Any]]) -> str:
    """HTML of a run's lines of metrics, in the order of the file; empty if none has the time."""
    rows = list(rows)
    shown = ''
    for title, prefix, names in (
        ('The run', ACCOUNT, PARTS),
        ('Its last start, to the first step', START, STAGES),
    ):
        found = stopwatch.last(rows, prefix)
        if seconds := {told: found[name] for name, told in names.items() if name in found}:
            shown += _bar(title, seconds)
    return shown


def _bar(title: str, seconds: Mapping[str, float]) -> str:
    """One bar of all parts, and a table with a line for each."""
    whole = sum(seconds.values())
    pieces = lines = ''
    for i, (name, value) in enumerate(seconds.items()):
        name, share = html.escape(name), f'{value / max(whole, 1e-9):.1%}'
        pieces += f'<i class="part{i}" style="flex-grow:{value:.3f}" title="{name} {share}"></i>'
        lines += f'<tr><th><i class="part{i}"></i>{name}</th><td>{value:,.1f} s</td>'
        lines += f'<td>{share}</td></tr>'
    return (
        f'<div class="panel"><h3>{html.escape(title)}: {whole:,.1f} s</h3>'
        f'<div class="bar" aria-hidden="true">{pieces}</div>'
        f'<table class="numbers"><tbody>{lines}</tbody></table></div>'
    )
