"""SimilarityEval: do cosines of sentence vectors go with how alike people find the sentences?"""
# SPDX-License-Identifier: Apache-2.0

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from t5x_lite import evaluate
from t5x_lite.evaluation import vectors
from t5x_lite.evaluation.classes import pearson, spearman
from t5x_lite.evaluation.reading import Problems, lines, objects, string

COLUMNS = ('sentence1', 'sentence2', 'score')


class Judged(NamedTuple):
    """Pairs of sentences and how alike they are; a higher score is more alike."""

    first: list[str]
    second: list[str]
    score_N: np.ndarray


@dataclass(frozen=True, kw_only=True)
class SimilarityEval:
    """Semantic textual similarity: Spearman and Pearson of cosines and gold scores.

    `file` has a pair on each line: `.jsonl` of objects with sentence1, sentence2 and score, else
    tab-separated columns, named on the first line, those three among them. A stream's vocabulary
    and objective say how a sentence becomes a vector (`vectors.way_of`); `pool` replaces its
    pooling. Names are `STREAM/NAME/spearman`; NAME is the file's. `pairs` limits them to the first.
    """

    stream: str
    file: str
    every: int = 500
    name: str | None = None
    pool: Callable | None = None
    length: int = 64
    batch_size: int = 128
    pairs: int | None = None

    @property
    def prefix(self) -> str:
        return f'{self.stream}/{self.name or Path(self.file).stem}'

    def check(self, experiment) -> None:
        vectors.check(self, experiment)
        vectors.check_prefix(self, experiment)
        evaluate.at_least(self, **({} if self.pairs is None else {'pairs': 2}))

    def open(self, experiment, mesh):
        judged = read(Path(self.file), self.pairs)
        own = dict(pool=self.pool, length=self.length, batch_size=self.batch_size)
        embedder = vectors.Embedder(experiment, mesh, self.stream, **own)
        first, second = (embedder.rows(texts) for texts in (judged.first, judged.second))

        def evaluate_all(params) -> Iterator[tuple[str, float]]:
            found_NxD = embedder.vectors(params, [*first, *second])
            cosine_N = np.einsum('ND,ND->N', *np.split(found_NxD.astype(np.float64), 2))
            for metric in (spearman, pearson):
                yield f'{self.prefix}/{metric.__name__}', metric(cosine_N, judged.score_N)

        return evaluate_all


def read(file: Path, count: int | None = None) -> Judged:
    """The pairs of a file, or the first `count`; ConfigError names all lines that are no pair."""
    problems = Problems(f'SimilarityEval: file={str(file)!r}')
    examples = objects(file, problems) if file.suffix == '.jsonl' else _table(file, problems)
    found = [pair for where, e in examples if (pair := _pair(e, where, problems))]
    if len(found) < 2:
        problems.add(file.name, f'has {len(found)} pairs; a correlation needs 2 or more')
    problems.check()
    first, second, scores = zip(*found[:count], strict=True)
    return Judged(list(first), list(second), np.array(scores))


def _table(file: Path, problems: Problems) -> Iterator[tuple[str, dict]]:
    """Lines of tab-separated columns by their names; a quotation mark is text like any other."""
    names = None
    for where, line in lines(file, problems):
        cells = line.split('\t')
        if names is None:
            names = [cell.strip() for cell in cells]
            if missing := [name for name in COLUMNS if name not in names]:
                problems.add(where, f'names no column {", ".join(missing)}; it has {line!r:.80}')
                return
        elif len(cells) != len(names):
            problems.add(where, f'has {len(cells)} columns, not {len(names)}')
        else:
            yield where, dict(zip(names, cells, strict=True))


def _pair(example: dict, where: str, problems: Problems) -> tuple[str, str, float] | None:
    texts = [string(example, name, where, problems) for name in COLUMNS[:2]]
    value = example.get('score')
    try:
        score = float(value) if isinstance(value, str | int | float) else math.nan
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        problems.add(where, f'score={value!r:.40} must be a number')
        return None
    return None if None in texts else (*texts, score)
