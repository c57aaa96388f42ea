"""Does a sentence find the one after it, or a query its document? TF-IDF and runs in one table.

    python -m benchmarks.retrieval mlm=runs/mlm:mean simcse=runs/simcse --output runs/compared

A run is NAME=FOLDER or NAME=FOLDER:POOL, trained or imported; POOL as in `Session.embed`. Needs
`pip install scikit-learn`, or --no-tfidf.
"""
# SPDX-License-Identifier: Apache-2.0

import argparse
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from t5x_lite import retrieval
from t5x_lite.errors import ConfigError, RunError
from t5x_lite.evaluation import collection
from t5x_lite.evaluation.collection import Collection
from t5x_lite.evaluation.ranking import Ranked, ranked

TASK = 't5x_lite.data.tasks.corpus_en_pd'
QUERIES, DOCUMENTS = 0, 1


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('runs', nargs='*', metavar='NAME=FOLDER[:POOL]', type=named_run)
    parser.add_argument('--folder', type=Path, help="a collection in BEIR's layout in place of one")
    parser.add_argument('--mixture', default='corpus_en_pd', help='the text of neighbours')
    parser.add_argument('--import', dest='imports', action='append', default=[TASK])
    parser.add_argument('--split', default='test')
    parser.add_argument('--pairs', type=int, default=1000)
    parser.add_argument('--length', type=int, default=128, help='tokens of a row at most')
    parser.add_argument('--batch', type=int, default=32, help='rows encoded at once')
    parser.add_argument('--no-tfidf', action='store_true')
    parser.add_argument(
        '--output', type=Path, help='a folder for the table, numbers and collection'
    )
    return parser.parse_args(arguments)


def named_run(text: str) -> tuple[str, Path, str | None]:
    """(name, folder, pool or None) of `NAME=FOLDER[:POOL]`."""
    name, equals, rest = text.partition('=')
    folder, _, pool = rest.partition(':')
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f'{text!r} must be NAME=FOLDER or NAME=FOLDER:POOL')
    return name, Path(folder), pool or None


def find(options) -> Collection:
    """The collection that is asked for."""
    if options.folder is not None:
        return collection.read(options.folder, options.split)
    own = dict(pairs=options.pairs, imports=options.imports)
    return retrieval.neighbour_search(options.mixture, options.split, **own)


def tfidf() -> Callable[[Collection], np.ndarray]:
    """The function collection -> cosines [Q, D] of TF-IDF vectors, weighed by the documents."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise ConfigError(
            f'TF-IDF: {error}; pip install scikit-learn, or leave it out: --no-tfidf'
        ) from error

    def scores(found: Collection) -> np.ndarray:
        vectorizer = TfidfVectorizer()
        key_DxV = vectorizer.fit_transform(found.documents.values())
        return (vectorizer.transform(found.queries.values()) @ key_DxV.T).toarray()

    return scores


def cosines(folder: Path, pool: str | None, options, found: Collection) -> np.ndarray:
    """Cosines [Q, D] of a run's vectors."""
    from t5x_lite.inference.embed import Embed
    from t5x_lite.inference.opened import Opened
    from t5x_lite.sharding import MeshShape

    opened, sides = Opened(folder, None, MeshShape(), options.batch), []
    for side, texts in ((QUERIES, found.queries), (DOCUMENTS, found.documents)):
        embed = Embed(pool=pool, side=side, max_length=options.length)
        prepared = [embed.prepare(opened, text) for text in texts.values()]
        sides.append(embed.vectors(opened, prepared))
    return sides[0] @ sides[1].T


def judge(scores_QxD: np.ndarray, found: Collection) -> Ranked:
    """The ranking by these scores; a query does not find itself."""
    place = {name: i for i, name in enumerate(found.documents)}
    scores_QxD, relevance_QxD = scores_QxD.copy(), np.zeros(scores_QxD.shape)
    for i, (query, own) in enumerate(found.grades.items()):
        for document, grade in own.items():
            relevance_QxD[i, place[document]] = max(0, grade)
        if query in place:
            scores_QxD[i, place[query]] = -np.inf
    return ranked(scores_QxD, relevance_QxD)


def numbers(found: Ranked) -> dict[str, float]:
    return {
        **{f'recall_at_{k}': found.recall(k) for k in (1, 10, 100)},
        'mrr_at_10': found.reciprocal_rank(10),
        'ndcg_at_10': found.ndcg(10),
    }


def table(rows: dict[str, dict[str, float]], title: str) -> str:
    """The numbers as a table in Markdown."""
    names = list(next(iter(rows.values())))
    lines = [title, '', '| | ' + ' | '.join(names) + ' |', '|---' * (len(names) + 1) + '|']
    lines += [f'| {row} | ' + ' | '.join(f'{x:.4f}' for x in own.values()) + ' |'
              for row, own in rows.items()]  # fmt: skip
    return '\n'.join(lines) + '\n'


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Prints the table and gives its numbers, {name: {metric: value}}."""
    options = parse(arguments)
    makers = {} if options.no_tfidf else {'TF-IDF': tfidf()}
    for name, folder, pool in options.runs:
        makers[name] = functools.partial(cosines, folder, pool, options)
    if not makers:
        raise ConfigError('nothing to compare: name a run, NAME=FOLDER, or leave out --no-tfidf')
    found = find(options)
    rows = {name: numbers(judge(scores(found), found)) for name, scores in makers.items()}
    source = options.folder or f'neighbouring sentences of {options.mixture}'
    title = f'{source}, {options.split}: {len(found.queries)} queries, '
    title += f'{len(found.documents)} documents'
    shown = table(rows, title)
    print(shown, end='')
    if options.output is not None:
        found.write(options.output / 'collection', options.split)
        (options.output / 'retrieval.md').write_text(shown, encoding='utf-8')
        (options.output / 'retrieval.json').write_text(json.dumps(rows, indent=2) + '\n')
    return rows


if __name__ == '__main__':
    try:
        main()
    except (ConfigError, RunError) as error:
        sys.exit(f'error: {error}')
