"""SearchEval: does a search by sentence vectors find the documents that are relevant?"""
# SPDX-License-Identifier: Apache-2.0
# Q queries, C documents encoded at once, K documents kept for each query, D numbers of a vector.

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import evaluate, sharding
from t5x_lite.errors import ConfigError
from t5x_lite.evaluation import collection, vectors
from t5x_lite.evaluation.collection import Collection
from t5x_lite.evaluation.ranking import Ranked
from t5x_lite.sharding import constrain

NOWHERE = 2**31 - 1  # no query has that place
TIE = 1e-6  # cosines no further apart are equal: the same text in another batch is off by 1e-7


@dataclass(frozen=True, kw_only=True)
class SearchEval:
    """Retrieval from a folder in BEIR's layout: recall, reciprocal rank and nDCG at some k.

    `folder` has corpus.jsonl (_id, title, text), queries.jsonl (_id, text) and qrels/SPLIT.tsv
    (query-id, corpus-id, score; Thakur et al. 2021). A stream's vocabulary and objective say how a
    text becomes a vector (`vectors.way_of`); `pool` replaces its pooling. All documents are scored
    by cosine but the query itself, one of its own id. Ties are decided against the model. Names are
    `STREAM/NAME/ndcg_at_10`; NAME is the folder's. `queries` and `documents` limit the search
    (`Collection.limited`); `batch_size` documents are encoded and scored at once.
    """

    stream: str
    folder: str
    split: str = 'test'
    every: int = 500
    name: str | None = None
    recall: tuple[int, ...] = (1, 10, 100)
    reciprocal_rank: tuple[int, ...] = (10,)
    ndcg: tuple[int, ...] = (10,)
    pool: Callable | None = None
    length: int = 128
    batch_size: int = 128
    queries: int | None = None
    documents: int | None = None

    def __post_init__(self):
        for name in ('recall', 'reciprocal_rank', 'ndcg'):
            chosen = tuple(getattr(self, name))
            object.__setattr__(self, name, chosen)
            if any(type(k) is not int or k < 1 for k in chosen):
                raise ConfigError(f'SearchEval: {name}={chosen} must be integers of 1 or more')
        if not self._deepest:
            raise ConfigError(
                'SearchEval: recall, reciprocal_rank and ndcg are all empty; try ndcg=(10,)'
            )

    @property
    def prefix(self) -> str:
        return f'{self.stream}/{self.name or Path(self.folder).name}'

    @property
    def _deepest(self) -> int:
        return max((*self.recall, *self.reciprocal_rank, *self.ndcg), default=0)

    def check(self, experiment) -> None:
        vectors.check(self, experiment)
        vectors.check_prefix(self, experiment)
        limits = {'queries': self.queries, 'documents': self.documents}
        evaluate.at_least(self, **{name: 1 for name, n in limits.items() if n is not None})

    def open(self, experiment, mesh):
        found = collection.read(Path(self.folder), self.split)
        found = found.limited(self.queries, self.documents)
        own = dict(pool=self.pool, length=self.length, batch_size=self.batch_size)
        embedder = vectors.Embedder(experiment, mesh, self.stream, **own)
        search = Search(embedder, found, self._deepest)

        def evaluate_all(params) -> Iterator[tuple[str, float]]:
            ranked = judged(search(params), found)
            for k in self.recall:
                yield f'{self.prefix}/recall_at_{k}', ranked.recall(k)
            for k in self.reciprocal_rank:
                yield f'{self.prefix}/mrr_at_{k}', ranked.reciprocal_rank(k)
            for k in self.ndcg:
                yield f'{self.prefix}/ndcg_at_{k}', ranked.ndcg(k)

        return evaluate_all


def judged(places_QxK: np.ndarray, found: Collection) -> Ranked:
    """The relevance of what was found, by places of documents, -1 where there is none."""
    names = list(found.documents)
    own = [{d: max(0, g) for d, g in one.items()} for one in found.grades.values()]
    most = max(map(len, own))
    ideal = [sorted(one.values(), reverse=True) + [0] * (most - len(one)) for one in own]
    grade = lambda one, place: one.get(names[place], 0) if place >= 0 else 0
    graded = [[grade(one, i) for i in row] for one, row in zip(own, places_QxK, strict=True)]
    return Ranked(np.array(graded, np.float64), np.array(ideal, np.float64))


class Best(NamedTuple):
    """The best documents of each query so far: scores [Q, K], and places in the corpus or -1."""

    scores_QxK: jax.Array
    places_QxK: jax.Array


class Lowered(NamedTuple):
    """Scores of a chunk to be lowered: by `amount` [P], at query [P] and column [P].

    Entries that fill it up name a query that is not there.
    """

    query: np.ndarray
    column: np.ndarray
    amount: np.ndarray


def merged(best: Best, scores_QxC, places_C) -> Best:
    """The best of both, as many as before. Of equal scores the one found first is kept."""
    places_QxC = jnp.broadcast_to(places_C, scores_QxC.shape)
    scores = jnp.concatenate([best.scores_QxK, scores_QxC], axis=1)
    places = jnp.concatenate([best.places_QxK, places_QxC], axis=1)
    top_QxK, at_QxK = jax.lax.top_k(scores, best.scores_QxK.shape[1])
    return Best(top_QxK, jnp.take_along_axis(places, at_QxK, axis=1))


def scored(query_QxD, key_CxD, places_C, lowered: Lowered):
    """Cosines [Q, C]; -inf of columns that are padding, and of a query itself."""
    cosine_QxC = jnp.einsum('QD,CD->QC', query_QxD, key_CxD, precision=jax.lax.Precision.HIGHEST)
    cosine_QxC = jnp.where(places_C[None] >= 0, cosine_QxC, -jnp.inf)
    return cosine_QxC.at[lowered.query, lowered.column].add(-lowered.amount, mode='drop')


class Search:
    """All documents of a collection scored for all queries, by chunks: (params) -> places [Q, K].

    A chunk is encoded, scored and merged into the best so far in one program: neither the vectors
    of the corpus nor the scores of all documents ever exist. Queries lie on the devices like rows
    of a batch, and each device scores all documents of the chunk.
    """

    def __init__(self, embedder: vectors.Embedder, found: Collection, depth: int):
        self._embedder, self._depth = embedder, min(depth, len(found.documents))
        self._queries = embedder.rows(found.queries.values())
        self._documents = embedder.rows(found.documents.values())
        self._padded = -(-len(self._queries) // embedder.ways) * embedder.ways
        self._chunks = embedder.chunks(self._documents)
        self._lowered = _lowered(found, self._chunks)
        self._step = jax.jit(self._one_chunk, donate_argnums=1)
        self._gather = jax.jit(lambda x: x, out_shardings=sharding.whole(embedder.mesh))

    def __call__(self, params) -> np.ndarray:
        embedder, count = self._embedder, len(self._queries)
        query_NxD = embedder.vectors(params, self._queries, vectors.QUERY)
        pad = self._padded - count
        shape = self._padded, self._depth
        start = {
            'queries': np.pad(query_NxD, ((0, pad), (0, 0))),
            'scores': np.full(shape, -np.inf, np.float32),
            'places': np.full(shape, -1, np.int32),
        }
        start = embedder.put(start)
        query_QxD, best = start['queries'], Best(start['scores'], start['places'])
        for index_C, lowered in zip(self._chunks, self._lowered, strict=True):
            batch = embedder.batch(self._documents, index_C)
            best = self._step(params, best, query_QxD, batch, index_C, lowered)
        return np.asarray(self._gather(best.places_QxK))[:count]

    def _one_chunk(self, params, best: Best, query_QxD, batch, places_C, lowered) -> Best:
        embedder = self._embedder
        with sharding.active(embedder.mesh, embedder.rules):
            key_CxD = embedder.way(embedder.model(params), batch, vectors.KEY)
            key_CxD = constrain(key_CxD, None, None)
            scores_QxC = constrain(scored(query_QxD, key_CxD, places_C, lowered), 'batch', None)
            return Best(*(constrain(x, 'batch', None) for x in merged(best, scores_QxC, places_C)))


def _lowered(found: Collection, chunks: Sequence[np.ndarray]) -> list[Lowered]:
    """For each chunk the scores to lower: relevant documents by `TIE`, better ones by more of it.

    So of equal scores the less relevant document is first. A query's own text is taken out.
    """
    place = {name: i for i, name in enumerate(found.documents)}
    by_document = [[] for _ in place]
    for query, (name, own) in enumerate(found.grades.items()):
        steps = sorted({grade for grade in own.values() if grade > 0})
        for document, grade in own.items():
            if grade > 0:
                by_document[place[document]].append((query, TIE * (1 + steps.index(grade))))
        if name in place:
            by_document[place[name]].append((query, np.inf))
    size = max(sum(len(by_document[i]) for i in index_C if i >= 0) for index_C in chunks)
    out = []
    for index_C in chunks:
        own = [(q, c, x) for c, i in enumerate(index_C) if i >= 0 for q, x in by_document[i]]
        own += [(NOWHERE, 0, 0.0)] * (size - len(own))
        query, column, amount = zip(*own, strict=True) if own else ((), (), ())
        kinds = (np.int32, np.int32, np.float32)
        out.append(Lowered(*map(np.array, (query, column, amount), kinds)))
    return out
