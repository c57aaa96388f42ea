"""The loss over a vocabulary, at once and in chunks: time and temporaries of loss and gradients."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import datetime
import functools
import json
import os
import pathlib
import platform
import shlex
import statistics
import sys
import time
from importlib import metadata

import jax
import jax.numpy as jnp

from t5x_lite.objectives import vocabulary_loss
from t5x_lite.objectives.losses import cross_entropy

WHOLE = 2**62  # scores that are never too many


class Path:
    """Compiled loss and gradients of random states [B, L, D] and a table [V, D], by one limit."""

    def __init__(self, batch: int, length: int, embed: int, vocabulary: int, limit: int):
        keys = jax.random.split(jax.random.key(0), 3)
        hidden = jax.random.normal(keys[0], (batch, length, embed))
        table = 0.02 * jax.random.normal(keys[1], (vocabulary, embed))
        targets = jax.random.randint(keys[2], (batch, length), 0, vocabulary)
        losses = functools.partial(cross_entropy, z_loss=1e-4, label_smoothing=0.0, smoothing='t5x')

        def loss(hidden, table):
            score = lambda x: (x.reshape(-1, embed) @ table.T).reshape(*x.shape[:2], vocabulary)
            counts = jnp.ones((batch, length, 2))
            return vocabulary_loss.sums(score, losses, hidden, targets, counts, limit)[0]

        lowered = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(hidden, table)
        self.compiled, self.inputs = lowered.compile(), (hidden, table)
        self.mib = self.compiled.memory_analysis().temp_size_in_bytes / 2**20
        self.chunks = vocabulary_loss.pieces((batch, length, vocabulary), limit)

    def seconds(self) -> float:
        began = time.perf_counter()
        jax.block_until_ready(self.compiled(*self.inputs))
        return time.perf_counter() - began


def measured(vocabulary: int, options) -> list[dict]:
    """One row a limit; rounds of all of them in turns, of which the first is not counted."""
    shape = (options.batch, options.length, options.embed, vocabulary)
    paths = {limit: Path(*shape, limit) for limit in (WHOLE, *(2**n for n in options.limits))}
    rounds = [{k: path.seconds() for k, path in paths.items()} for _ in range(options.rounds + 1)]
    took = {limit: statistics.median(r[limit] for r in rounds[1:]) for limit in paths}
    return [
        dict(
            vocabulary=vocabulary,
            limit=None if limit == WHOLE else limit,
            chunks=path.chunks,
            ms=round(1e3 * took[limit], 1),
            speed=round(took[WHOLE] / took[limit], 3),
            mib=round(path.mib, 1),
        )
        for limit, path in paths.items()
    ]


def table(rows: list[dict]) -> list[str]:
    lines = ['| words | chunks | scores at once | ms | against all at once | temporaries, MiB |']
    lines += ['|---|---|---|---|---|---|']
    for row in rows:
        limit = f'2^{row["limit"].bit_length() - 1}' if row['limit'] else 'all'
        lines.append(
            f'| {row["vocabulary"]:,} | {row["chunks"]} | {limit} | {row["ms"]:,.0f} | '
            f'{row["speed"]:.2f} | {row["mib"]:,.0f} |'
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.vocabulary', description=__doc__)
    parser.add_argument('vocabularies', nargs='*', type=int, default=[8192, 32_000, 50_257])
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--length', type=int, default=256)
    parser.add_argument('--embed', type=int, default=256)
    parser.add_argument('--limits', type=int, nargs='+', default=[21, 22, 23, 24, 25], help='log2')
    parser.add_argument('--rounds', type=int, default=5, help='default: %(default)s')
    parser.add_argument('--json', type=pathlib.Path, help='file for the record')
    options = parser.parse_args()
    load, rows = os.getloadavg()[0], []
    for vocabulary in options.vocabularies:
        rows += measured(vocabulary, options)
    record = dict(
        command=f'python -m benchmarks.vocabulary {shlex.join(sys.argv[1:])}'.strip(),
        device=f'{platform.processor() or platform.machine()} ({jax.default_backend()})',
        cores=os.cpu_count(),
        date=datetime.date.today().isoformat(),
        jax=metadata.version('jax'),
        load_before=round(load, 2),
        rows=rows,
    )
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + '\n')
    print(*table(rows), sep='\n')


if __name__ == '__main__':
    main()
