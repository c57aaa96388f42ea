"""Embed: a vector for each text."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Sequence
from dataclasses import dataclass

from t5x_lite.errors import ConfigError, nearest
from t5x_lite.evaluation import vectors
from t5x_lite.inference.verbs import text_of
from t5x_lite.objectives.similarity import POOLS

DIGITS = 6  # of what is told


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Unit vectors of texts, from an encoder, or from a decoder alone.

    `pool` is one of cls, mean, last, first_last, last_two; None is that of the run's contrastive
    objective, else mean. A text gets the marks that this objective puts around it; a dual encoder's
    projection and towers are applied (`side` 0 for queries, 1 for keys), and supervised SimCSE's
    layer; that of unsupervised SimCSE, which serves training alone, is not (Gao et al. 2021). A
    text is cut to `max_length` tokens if that is given.
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

    def check(self, opened) -> None:
        """Every model has states to pool."""

    def prepare(self, opened, example) -> list[int]:
        ids = opened.ids(text_of(example))
        if not ids:
            raise ConfigError('the text is empty; give it a word')
        return self.row(opened, ids)

    def row(self, opened, ids: Sequence[int]) -> list[int]:
        """Ids in their marks, cut to `max_length`; of no ids the marks alone."""
        own = _objective(opened)
        if own is None or not opened.model.encoder_layers:
            marks = vectors.Marks(*(tuple(side) for side in opened.marks))
        else:
            marks = vectors.marks_of(opened.model, opened.info, own)
        row = marks.around(ids, self.max_length)
        opened.check_length(len(row))
        return row

    def vectors(self, opened, prepared: Sequence[list[int]]):
        """The vectors [n, D], float32."""
        pool = POOLS[self.pool] if self.pool else None
        way = vectors.way_of(opened.model, _objective(opened), pool)
        rows = vectors.arrays(prepared, len(prepared), way.stack, opened.most)
        return opened.compute(_embedded, rows, way=way, side=self.side)['vectors']

    def run(self, opened, prepared, numbers) -> list[dict]:
        """{'embedding': [D numbers]}."""
        vectors_NxD = self.vectors(opened, prepared)
        return [{'embedding': [round(float(x), DIGITS) for x in row]} for row in vectors_NxD]


def _objective(opened):
    """What the run trained its vectors by; None of an imported model."""
    streams = {} if opened.experiment is None else opened.experiment.streams
    return vectors.comparing(stream.objective for stream in streams.values())


def _embedded(model, batch, *, way: vectors.Way, side: int):
    return {'vectors': way(model, batch, side)}
