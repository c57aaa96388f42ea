"""Embed: a vector for each text."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Sequence
from dataclasses import dataclass

from t5x_lite import objective
from t5x_lite.errors import ConfigError, nearest
from t5x_lite.inference.verbs import text_of
from t5x_lite.model.heads import SimilarityHead
from t5x_lite.objectives import similarity
from t5x_lite.objectives.similarity import POOLS

DIGITS = 6  # of what is told


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Unit vectors of texts, from an encoder, or from a decoder alone.

    `pool` is one of cls, mean, last, first_last, last_two; None is that of the run's contrastive
    objective, else mean. A dual encoder's projection is applied (`side` 0 for queries, 1 for
    keys); SimCSE's layer, which serves training alone, is not (Gao et al. 2021). A text is cut to
    `max_length` tokens if that is given.
    """

    pool: str | None = None
    side: int = 0
    max_length: int | None = None

    def __post_init__(self):
        if self.pool is not None and self.pool not in POOLS:
            raise ConfigError(f'embed: pool={self.pool!r} is unknown; {nearest(self.pool, POOLS)}')
        if self.max_length is not None and self.max_length < 3:
            raise ConfigError(f'embed: max_length={self.max_length} must be 3 or more')
        if self.side not in (0, 1):
            raise ConfigError(f'embed: side={self.side!r} must be 0 (queries) or 1 (keys)')

    def prepare(self, opened, example) -> list[int]:
        return opened.framed(text_of(example), self.max_length)

    def vectors(self, opened, prepared: Sequence[list[int]]):
        """The vectors [n, D], float32."""
        tokens, segments = opened.padded(prepared)
        pool = POOLS[self.pool] if self.pool else _pool_of(opened)
        stack = 'encoder' if opened.model.encoder_layers else 'decoder'
        if stack == 'decoder' and similarity.every_layer(pool):
            raise ConfigError(f'embed: pool={pool.__name__} is for encoders; use last or mean')
        head = opened.head(None, SimilarityHead, 'similarity')
        rows = {f'{stack}_input_tokens': tokens, f'{stack}_segment_ids': segments}
        rows[f'{stack}_positions'] = (segments.cumsum(axis=1) - 1).clip(0).astype('int32')
        own = dict(pool=pool, stack=stack, head=head, side=self.side)
        return opened.compute(_embedded, rows, **own)['vectors']

    def run(self, opened, prepared, numbers) -> list[dict]:
        """{'embedding': [D numbers]}."""
        vectors_NxD = self.vectors(opened, prepared)
        return [{'embedding': [round(float(x), DIGITS) for x in row]} for row in vectors_NxD]


def _pool_of(opened):
    streams = {} if opened.experiment is None else opened.experiment.streams
    terms = (term for s in streams.values() for term in s.objective.terms.values())
    pools = [term.loss.pool for term in terms if term.batchwide and hasattr(term.loss, 'pool')]
    return pools[0] if pools else similarity.pool_mean


def _embedded(model, batch, *, pool, stack: str, head: str | None, side: int):
    layers = similarity.every_layer(pool)
    forward = objective.decode
    if stack == 'encoder':
        forward = objective.encode_layers if layers else objective.encode
    outputs, mask_BxL = forward(model, batch), batch[f'{stack}_segment_ids'] > 0
    x_BxD = similarity.pooled(pool, outputs, f'{stack}_hidden', mask_BxL)
    x_BxD = model.heads[head](x_BxD, side) if head else x_BxD
    return {'vectors': similarity.normalise_rows(x_BxD)}
