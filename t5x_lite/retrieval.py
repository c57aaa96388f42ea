"""An evaluator of sentence vectors: recall, reciprocal rank, alignment, uniformity."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from t5x_lite import evaluate
from t5x_lite.data import packing, seqio_source
from t5x_lite.errors import ConfigError
from t5x_lite.evaluation import vectors
from t5x_lite.evaluation.collection import Collection
from t5x_lite.objectives import similarity

EMBED_ROWS = 128  # sentences encoded at once
LONGEST = 512  # tokens of a sentence written as text


@dataclass(frozen=True, kw_only=True)
class EmbedEval:
    """Sentence vectors of a stream's held-out text: does a sentence find its neighbour?

    Of up to `pairs` pairs of neighbouring sentences, the numbers of `retrieval`: how
    often a first sentence's own second one is nearest, and the like. The vector is `pool` of the
    encoder, without the head used in training.
    """

    stream: str
    every: int = 500
    split: str = 'validation'
    pairs: int = 512
    pool: Callable = similarity.pool_cls
    length: int = 64
    batch_size: int = EMBED_ROWS

    def check(self, experiment) -> None:
        vectors.check(self, experiment)
        evaluate.at_least(self, pairs=2)
        if 'encoder' not in experiment.model.stacks:
            raise ConfigError('EmbedEval: the model has encoder_layers=0; leave it out of evals')

    def open(self, experiment, mesh):
        way = vectors.Way('encoder', self.pool)
        own = dict(length=self.length, batch_size=self.batch_size, way=way)
        embedder = vectors.Embedder(experiment, mesh, self.stream, **own)
        mixture = experiment.streams[self.stream].mixture
        found = neighbours(
            mixture, self.split, self.pairs, imports=experiment.imports, length=self.length - 2
        )
        rows = [embedder.framed(ids) for side in (found.first, found.second) for ids in side]

        def evaluate_all(params):
            sides = np.split(embedder.vectors(params, rows), 2)
            for name, value in retrieval(*sides).items():
                yield f'{self.stream}/{name}', value

        return evaluate_all


class Neighbours(NamedTuple):
    """Ids of sentences and of the ones that follow them, and the vocabulary that they are of."""

    first: list[np.ndarray]
    second: list[np.ndarray]
    info: object


def neighbours(
    mixture: str, split: str, pairs: int, *, imports: Iterable[str] = (), length: int = LONGEST
) -> Neighbours:
    """Up to `pairs` pairs of neighbouring sentences of a text task, in the order of its documents.

    A sentence is in one pair; of a document with an odd number of them the last one is left out.
    They are cut to `length` tokens. ConfigError if there are fewer than 2 pairs.
    """
    info = seqio_source.vocabulary(mixture, ('targets',), imports)
    found = []
    for document in seqio_source.Examples(mixture, ('targets',), split=split, imports=imports):
        cutter = packing.Sentences(length, info)
        cutter.add(document)
        rows = cutter.take(2 * min(cutter.ready() // 2, pairs - len(found) // 2))
        found += [tokens[:n] for tokens, n in zip(rows.tokens, rows.lengths, strict=True)]
        if len(found) == 2 * pairs:
            break
    if len(found) < 4:
        raise ConfigError(
            f'split {split!r} of {mixture!r} has {len(found) // 2} pairs of neighbouring '
            'sentences, 2 or more are needed'
        )
    return Neighbours(found[0::2], found[1::2], info)


def neighbour_search(
    mixture: str, split: str = 'test', pairs: int = 1000, *, imports: Iterable[str] = ()
) -> Collection:
    """`neighbours` as a search: a sentence is a query, relevant is the one that follows it.

    The documents are the second sentences of all pairs. The same text gives the same search; with
    another vocabulary sentences may end elsewhere.
    """
    first, second, info = neighbours(mixture, split, pairs, imports=imports)
    number = range(len(first))
    return Collection(
        {f'q{i}': info.text(first[i]) for i in number},
        {f'd{i}': info.text(second[i]) for i in number},
        {f'q{i}': {f'd{i}': 1} for i in number},
    )


def retrieval(query_BxD: np.ndarray, match_BxD: np.ndarray) -> dict[str, float]:
    """How well each query finds its own match among all matches, by unit vectors.

    The rank is 1 + how many other matches score as high: ties count as misses. `recall_at_k` is the
    share of ranks up to k, `mrr` the mean of 1 / rank; `alignment` and `uniformity` are Wang and
    Isola's (2020), over pairs and over all vectors.
    """
    scores_BxB = query_BxD @ match_BxD.T
    gold_B = np.diagonal(scores_BxB).copy()
    np.fill_diagonal(scores_BxB, -np.inf)
    rank_B = 1 + (scores_BxB >= gold_B[:, None]).sum(1)
    both = np.concatenate([query_BxD, match_BxD])
    squared = np.maximum(2.0 - 2.0 * (both @ both.T), 0.0)
    apart = ~np.eye(len(both), dtype=bool)
    return {
        **{f'recall_at_{k}': float((rank_B <= k).mean()) for k in (1, 10)},
        'mrr': float((1.0 / rank_B).mean()),
        'alignment': float(np.square(query_BxD - match_BxD).sum(-1).mean()),
        'uniformity': float(np.log(np.exp(-2.0 * squared[apart]).mean())),
    }
