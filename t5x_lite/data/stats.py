"""Numbers of data as values: lengths, duplicates, unknown tokens, shares, padding, speed."""
# SPDX-License-Identifier: Apache-2.0

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Histogram:
    """Counts of documents of edges[i] to edges[i + 1] - 1 tokens; edges double."""

    edges: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, lengths: np.ndarray) -> 'Histogram':
        if not len(lengths):
            return cls((), ())
        bits = np.frexp(lengths.astype(np.float64))[1]  # 2 ** (bits - 1) <= length < 2 ** bits
        first, last = int(bits.min()), int(bits.max())
        counts = np.bincount(bits - first, minlength=last - first + 1)
        edges = [2**b // 2 for b in range(first, last + 2)]
        return cls(tuple(edges), tuple(counts.tolist()))

    def labels(self) -> list[str]:
        spans = itertools.pairwise(self.edges)
        return [f'{a:,}' if b - a <= 1 else f'{a:,}-{b - 1:,}' for a, b in spans]


@dataclass(frozen=True)
class Lengths:
    """Documents of one feature in tokens. `unknown` is the share of the vocabulary's unknown id.

    `bytes_per_token` counts text only; None where the vocabulary's pieces are not known.
    """

    tokens: int
    shortest: int
    median: float
    mean: float
    longest: int
    histogram: Histogram
    unknown: float | None
    bytes_per_token: float | None

    def facts(self) -> dict[str, str]:
        words = {
            'tokens': f'{self.tokens:,}',
            'shortest': f'{self.shortest:,}',
            'median': f'{self.median:,.0f}',
            'mean': f'{self.mean:,.1f}',
            'longest': f'{self.longest:,}',
        }
        if self.unknown is not None:
            words['unknown'] = f'{self.unknown:.3%} of tokens'
        if self.bytes_per_token is not None:
            words['bytes'] = f'{self.bytes_per_token:.2f} a token of text'
        return words


@dataclass(frozen=True)
class Speed:
    """Text through seqio to token ids: tokens a second of CPU time (all threads) and of a clock."""

    tokens: int
    tokens_per_cpu_second: float
    tokens_per_second: float


@dataclass(frozen=True)
class TaskStats:
    """One pass over a task's documents; `duplicates` is the share that came before, id for id."""

    name: str
    documents: int
    duplicates: float
    features: Mapping[str, Lengths]
    speed: Speed | None  # None: too few documents to measure

    def facts(self) -> dict[str, str]:
        words = {
            'documents': f'{self.documents:,}',
            'duplicates': f'{self.duplicates:.2%} of documents came before, id for id',
        }
        if self.speed:
            words['text to ids'] = (
                f'{self.speed.tokens_per_cpu_second:,.0f} tokens a CPU second, '
                f'{self.speed.tokens_per_second:,.0f} a second, over {self.speed.tokens:,} tokens'
            )
        return words


@dataclass(frozen=True)
class MixtureStats:
    """A task alone, or a mixture with the shares of its tasks by their rates, which sum to 1."""

    name: str
    split: str
    tasks: Mapping[str, TaskStats]
    rates: Mapping[str, float]

    def facts(self) -> dict[str, str]:
        return {name: f'{rate:.2%} of documents, by its rate' for name, rate in self.rates.items()}


@dataclass(frozen=True)
class Side:
    """A group of a batch's arrays: shares of its places. None where there are no loss weights."""

    places: int  # of a row
    padding: float
    efficiency: float  # what is not padding
    segments: float  # of a row that is not padding, mean
    scored: float | None  # share of what is not padding

    def facts(self) -> dict[str, str]:
        words = {
            'places': f'{self.places:,} a row',
            'padding': f'{self.padding:.2%}',
            'packing': f'{self.efficiency:.2%} used, {self.segments:.2f} segments a row',
        }
        if self.scored is not None:
            words['scored'] = f'{self.scored:.2%} of what is not padding'
        return words


@dataclass(frozen=True)
class StreamStats:
    """Batches of a stream, and what becomes of documents in its rows.

    `longer` is the share of documents longer than any of the stream's lengths; `left_out` that of
    text tokens that are in no row, None where the objective's rows do not tell. `rates` are the
    shares of a mixture's tasks at the first step, `drawn` the documents of each that were drawn.
    """

    name: str
    mixture: str
    batches: int
    rows: int
    sides: Mapping[str, Side]
    longer: float
    left_out: float | None
    tokens_per_cpu_second: float
    rates: Mapping[str, float] = field(default_factory=dict)
    drawn: Mapping[str, int] = field(default_factory=dict)

    def facts(self) -> dict[str, str]:
        words = {'mixture': self.mixture, 'batches': f'{self.batches:,} of {self.rows:,} rows'}
        words['longer'] = f'{self.longer:.2%} of documents are longer than a row'
        if self.left_out is not None:
            words['left out'] = f'{self.left_out:.2%} of text tokens are in no row'
        total = max(sum(self.drawn.values()), 1)
        for task, count in self.drawn.items():
            words[task] = (
                f'{self.rates[task]:.2%} of documents by its rate, {count / total:.2%} of '
                f'{total:,} drawn'
            )
        words['ids to batch'] = f'{self.tokens_per_cpu_second:,.0f} tokens a CPU second'
        return words


@dataclass(frozen=True)
class Stats:
    """Mixtures by name, and for a config its streams by name."""

    seed: int
    mixtures: Mapping[str, MixtureStats]
    streams: Mapping[str, StreamStats] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
