"""Texts as unit vectors, for evaluators and inference: framed, in batches, encoded, pooled."""
# SPDX-License-Identifier: Apache-2.0
# B rows of a batch, L tokens of a row, D numbers of a vector, N texts.

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from t5x_lite import evaluate, objective, sharding
from t5x_lite.data import packing, seqio_source
from t5x_lite.data.vocabularies import VocabularyInfo, describe
from t5x_lite.errors import ConfigError, nearest
from t5x_lite.evaluation import batches
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.heads import SentenceHead, SimilarityHead
from t5x_lite.objective import Batch, Objective
from t5x_lite.objectives import similarity
from t5x_lite.objectives.pairs import SIDES, TOWER
from t5x_lite.objectives.similarity import ContrastiveLoss

QUERY, KEY = 0, 1  # the two sides of a dual encoder


@dataclass(frozen=True)
class Way:
    """How rows become vectors: which stack reads them, how its states are pooled, and what follows.

    `head` is the name of a head on the pooled vector, `tower` that of the encoder of keys.
    """

    stack: str
    pool: Callable
    head: str | None = None
    tower: str | None = None

    def __post_init__(self):
        if self.stack == 'decoder' and similarity.every_layer(self.pool):
            raise ConfigError(f'pool={self.pool.__name__} is for encoders; use pool_last or mean')

    def __call__(self, model, batch: Batch, side: int = QUERY):
        """Unit vectors [B, D], float32, of the rows of one side."""
        trunk = model.heads[self.tower] if self.tower and side == KEY else model
        forward = objective.decode
        if self.stack == 'encoder':
            layers = similarity.every_layer(self.pool)
            forward = objective.encode_layers if layers else objective.encode
        outputs, mask_BxL = forward(trunk, batch), batch[f'{self.stack}_segment_ids'] > 0
        x_BxD = similarity.pooled(self.pool, outputs, f'{self.stack}_hidden', mask_BxL)
        x_BxD = model.heads[self.head](x_BxD, side) if self.head else x_BxD
        return similarity.normalise_rows(x_BxD)


def way_of(config: ModelConfig, own: Objective | None, pool: Callable | None = None) -> Way:
    """The way that an objective trains; of one that compares no vectors, the mean of the states.

    `pool` replaces its pooling. A dual encoder's projection and its second tower belong to it, and
    supervised SimCSE's layer; that of unsupervised SimCSE serves training alone (Gao et al. 2021).
    """
    stack = 'encoder' if config.encoder_layers else 'decoder'
    for name, term in own.terms.items() if own else ():
        if isinstance(term.loss, ContrastiveLoss):
            on_pairs = term.loss.views[0].startswith(SIDES[0])
            kept = isinstance(term.head, SimilarityHead) or (
                on_pairs and isinstance(term.head, SentenceHead)
            )
            tower = TOWER if TOWER in own.parts else None
            return Way(stack, pool or term.loss.pool, name if kept else None, tower)
    return Way(stack, pool or similarity.pool_mean)


def comparing(objectives: Iterable[Objective]) -> Objective | None:
    """The first objective that compares vectors, else the first one, None of none."""
    found = list(objectives)
    losses = lambda own: (term.loss for term in own.terms.values())
    compares = lambda own: any(isinstance(loss, ContrastiveLoss) for loss in losses(own))
    return next(filter(compares, found), found[0] if found else None)


class Marks(NamedTuple):
    """Ids before and after a text."""

    front: tuple[int, ...]
    end: tuple[int, ...]

    def around(self, ids: Sequence[int], length: int | None = None) -> list[int]:
        """The text in its marks, cut so that all of it takes `length` places at most."""
        room = None if length is None else max(1, length - len(self.front) - len(self.end))
        return [*self.front, *ids[:room], *self.end]


def marks_of(config: ModelConfig, info: VocabularyInfo, own: Objective | None) -> Marks:
    """Marks as the rows that an objective trains on have them.

    `BOS text` of a decoder alone; `text EOS` of encoder-decoders trained as such, of converters
    that say so, and of vocabularies without [CLS]; `[CLS] text [SEP]` of the others.
    """
    if not config.encoder_layers:
        return Marks((info.pad if info.bos is None else info.bos,), ())
    written = own is not None and 'decoder' in own.forward.needs
    said = getattr(own.converter, 'marks', None) if own else None
    if said == 'eos' or (said is None and (written or None in (info.cls, info.sep))):
        return Marks((), () if info.eos is None else (info.eos,))
    return Marks((info.cls,), (info.sep,))


def arrays(rows: Sequence[Sequence[int]], size: int, stack: str, longest: int | None) -> Batch:
    """Rows as the arrays of a batch of `size`; the width a power of two, `longest` at most."""
    lengths_B = np.zeros(size, np.int32)
    lengths_B[: len(rows)] = [len(row) for row in rows]
    width = batches.power_of_two(max(batches.SHORTEST, int(lengths_B.max())))
    segments_BxL, positions_BxL = packing.extents(lengths_B, int(min(width, longest or math.inf)))
    tokens_BxL = np.zeros_like(segments_BxL)
    tokens_BxL[segments_BxL > 0] = np.concatenate([np.asarray(row, np.int32) for row in rows])
    found = dict(input_tokens=tokens_BxL, segment_ids=segments_BxL, positions=positions_BxL)
    return {f'{stack}_{name}': x for name, x in found.items()}


class Embedder:
    """A stream's vocabulary and way from texts to vectors, on a mesh.

    `length` is what a row has at most, marks included; `batch_size` the rows encoded at once, or a
    little more, so that they divide over the devices. `way` replaces that of the stream.
    """

    def __init__(self, run, mesh, stream: str, *, length, batch_size, pool=None, way=None):
        own = run.streams[stream]
        self._vocabulary = seqio_source.text_vocabulary(own, run.imports)
        self.info = describe(self._vocabulary)
        self._marks = marks_of(run.model, self.info, own.objective)
        self.way = way or way_of(run.model, own.objective, pool)
        self._length, self._longest = length, run.model.positions.max_length
        self._run, self.mesh, self.rules = run, mesh, run.rules
        self.ways = batches.ways(mesh, run.rules)
        self.batch_size = batches.batch_size(batch_size, mesh, run.rules)

    def framed(self, ids: Sequence[int]) -> list[int]:
        """A row of one text's ids."""
        return self._marks.around(ids, self._length)

    def rows(self, texts: Iterable[str]) -> list[list[int]]:
        """A row of each text."""
        return [self.framed([int(i) for i in self._vocabulary.encode(text)]) for text in texts]

    def chunks(self, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Which rows make a batch, [B] each, the longest first; -1 fills the last one up."""
        order_N = np.argsort([-len(row) for row in rows], kind='stable').astype(np.int32)
        order_N = np.pad(order_N, (0, -len(rows) % self.batch_size), constant_values=-1)
        return np.split(order_N, len(order_N) // self.batch_size)

    def batch(self, rows: Sequence[Sequence[int]], index_B: np.ndarray) -> dict:
        """One of `chunks` on the mesh; a row that fills it up is all padding."""
        chosen = [rows[i] for i in index_B if i >= 0]
        return self.put(arrays(chosen, self.batch_size, self.way.stack, self._longest))

    @functools.cached_property
    def compiled(self) -> Callable[..., jax.Array]:
        """The jitted (params, batch, side) -> vectors [B, D], on every device."""
        model = self.model

        def embed(params, batch, side: int):
            with sharding.active(self.mesh, self.rules):
                return self.way(model(params), batch, side)

        return jax.jit(embed, static_argnums=2, out_shardings=sharding.whole(self.mesh))

    @functools.cached_property
    def model(self) -> Callable[[Any], Any]:
        """params -> the run's model."""
        from t5x_lite import step

        return step.model_of(self._run)

    def put(self, batch: Mapping[str, np.ndarray]) -> dict:
        """Rows of arrays, a multiple of the devices' shares, on the mesh."""
        return sharding.put_batch(batch, self.mesh, self.rules)

    def vectors(self, params, rows: Sequence[Sequence[int]], side: int = QUERY) -> np.ndarray:
        """Unit vectors [N, D] of all rows in their order, on the host."""
        chunks = self.chunks(rows)
        parts = [np.asarray(self.compiled(params, self.batch(rows, i), side)) for i in chunks]
        found, index_M = np.concatenate(parts), np.concatenate(chunks)
        return found[index_M >= 0][np.argsort(index_M[index_M >= 0])]


def check(evaluator, experiment) -> None:
    """ConfigError unless an evaluator's stream, pool, length and batch_size fit the experiment."""
    kind = type(evaluator).__name__
    evaluate.at_least(evaluator, every=1, length=3, batch_size=1)
    evaluate.check_length(evaluator, evaluator.length, experiment)
    if evaluator.stream not in experiment.streams:
        raise ConfigError(
            f'{kind}: stream={evaluator.stream!r} is no stream; '
            f'{nearest(evaluator.stream, experiment.streams)}'
        )
    try:
        way_of(experiment.model, experiment.streams[evaluator.stream].objective, evaluator.pool)
    except ConfigError as error:
        raise ConfigError(f'{kind}: {error}') from error


def check_prefix(evaluator, experiment) -> None:
    """ConfigError if another evaluator of its kind writes numbers of the same names."""
    same = lambda e: type(e) is type(evaluator) and e.prefix == evaluator.prefix
    if sum(map(same, experiment.evals.values())) > 1:
        raise ConfigError(
            f'{type(evaluator).__name__}: two of evals write their numbers as '
            f"{evaluator.prefix}/..; give one a name of its own, such as name='b'"
        )
