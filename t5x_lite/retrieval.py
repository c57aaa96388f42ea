"""An evaluator of sentence vectors: recall, reciprocal rank, alignment, uniformity."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from t5x_lite import objective, sharding
from t5x_lite.data import seqio_source
from t5x_lite.errors import ConfigError, nearest
from t5x_lite.evaluate import at_least, check_length
from t5x_lite.objective import Batch
from t5x_lite.objectives import contrastive, similarity

EMBED_ROWS = 128  # sentences encoded at once


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

    def check(self, experiment) -> None:
        at_least(self, every=1, pairs=2, length=3)
        check_length(self, self.length, experiment)
        if self.stream not in experiment.streams:
            raise ConfigError(
                f'EmbedEval: stream={self.stream!r} is no stream; '
                f'{nearest(self.stream, experiment.streams)}'
            )
        if 'encoder' not in experiment.model.stacks:
            raise ConfigError('EmbedEval: the model has encoder_layers=0; leave it out of evals')

    def open(self, experiment, mesh):
        from t5x_lite import step

        model_of_params = step.model_of(experiment)
        layers = similarity.every_layer(self.pool)
        forward = objective.encode_layers if layers else objective.encode

        @functools.partial(jax.jit, out_shardings=sharding.whole(mesh))
        def embed(params, batch):
            outputs = forward(model_of_params(params), batch)
            mask_BxL = batch['encoder_segment_ids'] > 0
            pooled = similarity.pooled(self.pool, outputs, 'encoder_hidden', mask_BxL)
            return similarity.normalise_rows(pooled)

        def evaluate(params):
            queries, matches = (
                [np.asarray(embed(params, batch)) for batch in side] for side in sides
            )
            for name, value in retrieval(np.concatenate(queries), np.concatenate(matches)).items():
                yield f'{self.stream}/{name}', value

        sides = self._pairs(experiment)
        return evaluate

    def _pairs(self, experiment) -> tuple[list[Batch], list[Batch]]:
        """Batches of first sentences and of the ones that follow them, in the same order."""
        mixture, converter = experiment.streams[self.stream].mixture, contrastive.Sentences()
        features, lengths = converter.features, {'targets': self.length}
        vocabulary = seqio_source.vocabulary(mixture, features, experiment.imports)
        converter.check(lengths, vocabulary)
        documents = seqio_source.Examples(
            mixture, features, split=self.split, imports=experiment.imports
        )
        queries, matches, found = [], [], 0
        for document in documents:
            cutter = converter.cutter(lengths, vocabulary)
            cutter.add(document)
            pairs = min(cutter.ready() // 2, self.pairs - found)
            if found == self.pairs:
                break
            if pairs:
                rows = cutter.take(2 * pairs)
                batch = converter.batch(rows, lengths, vocabulary, np.zeros((2 * pairs, 0)))
                queries.append({name: x[0::2] for name, x in batch.items()})
                matches.append({name: x[1::2] for name, x in batch.items()})
                found += pairs
        if found < 2:
            raise ConfigError(
                f'EmbedEval: split {self.split!r} of {mixture!r} has {found} pairs of neighbouring '
                'sentences, it needs 2 or more'
            )
        return _joined(queries), _joined(matches)


def _joined(batches: list[Batch]) -> list[Batch]:
    """The same rows in batches of one size (the last may be smaller): one or two compilations."""
    whole = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    count = len(next(iter(whole.values())))
    return [
        {name: x[start : start + EMBED_ROWS] for name, x in whole.items()}
        for start in range(0, count, EMBED_ROWS)
    ]


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
