"""Contrastive learning on pairs of texts: supervised SimCSE, dual encoders, CLIP's loss."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.data import packing, pairs
from t5x_lite.errors import ConfigError, nearest
from t5x_lite.model.heads import SentenceHead, SimilarityHead, Tower
from t5x_lite.objective import Batch, Objective, Outputs, Schedule, Term, encode_side, neighbours
from t5x_lite.objectives.checks import check_ids, check_lengths
from t5x_lite.objectives.prefix_lm import ended
from t5x_lite.objectives.similarity import ContrastiveLoss, every_layer, pool_cls, pool_mean

SIDES = ('left_encoder', 'right_encoder', 'right_negative_encoder')  # google-research/t5x_retrieval
TOWER = 'passage_encoder'
MARKS = {'cls': ('cls', 'sep'), 'eos': ('eos',)}


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """An example is a row: its features, in this order, are query, answer and perhaps a negative.

    Each is cut to fit its length with `[CLS] .. [SEP]` around it (`marks='cls'`) or EOS after it
    (`'eos'`). An example without query or answer is dropped; a negative may be empty.
    """

    features: tuple[str, ...] = ('inputs', 'targets')
    marks: str = 'cls'
    longest: ClassVar[int | None] = None

    def __post_init__(self):
        object.__setattr__(self, 'features', tuple(self.features))
        if len(self.features) not in (2, 3) or len({*self.features}) < len(self.features):
            raise ConfigError(
                f'pairs: features={self.features} must be two names, or three with a negative; try '
                "('inputs', 'targets')"
            )
        if self.marks not in MARKS:
            raise ConfigError(
                f'pairs: marks={self.marks!r} is unknown; {nearest(self.marks, MARKS)}'
            )

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        least = 1 + len(MARKS[self.marks])
        why = f'a token and {" and ".join(MARKS[self.marks])}'
        check_lengths('pairs', lengths, dict.fromkeys(self.features, least), why)
        if vocabulary is not None:
            check_ids('pairs', vocabulary, *MARKS[self.marks])

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        spec = {}
        for side, feature in zip(SIDES, self.features, strict=False):
            spec |= pairs.side_spec(side, lengths[feature])
        return spec

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        room = len(MARKS[self.marks])
        inner = {feature: lengths[feature] - room for feature in self.features}
        return pairs.Aligned(inner, optional=self.features[2:])

    def draws(self, lengths: Mapping[str, int]) -> int:
        return 0

    def batch(self, rows: Mapping[str, packing.Rows], lengths, vocabulary, uniforms):
        batch = {}
        for side, feature in zip(SIDES, self.features, strict=False):
            batch |= pairs.side_batch(side, self._marked(rows[feature], vocabulary))
        return batch

    def _marked(self, rows: packing.Rows, vocabulary) -> packing.Rows:
        if self.marks == 'cls':
            marked = packing.frame(rows, vocabulary)
        else:
            marked = ended(rows, vocabulary.eos)
        used_Bx1 = (rows.lengths > 0).astype(np.int32)[:, None]
        return packing.Rows(*(x * used_Bx1 for x in marked))


@dataclass(frozen=True, kw_only=True)
class EncodePairs:
    """A forward: each of `sides` through the encoder, `left_encoder_hidden` [B, L, D] and so on.

    With `separate`, answers and negatives go through the part `passage_encoder`, not the model.
    """

    sides: int = 2
    separate: bool = False
    every_layer: bool = False
    needs: ClassVar[tuple[str, ...]] = ('encoder',)
    needs_dropout: ClassVar[bool] = False

    def __call__(self, model, batch: Batch, key=None) -> Outputs:
        sides = SIDES[: self.sides]
        shapes = {batch[f'{side}_input_tokens'].shape for side in sides}
        if not self.separate and len(shapes) == 1:
            return self._at_once(model, batch, sides, key)
        keys = [None] * self.sides if key is None else jax.random.split(key, self.sides)
        outputs = {}
        for i, side in enumerate(sides):
            tower = model.heads[TOWER] if self.separate and i else model
            outputs |= encode_side(tower, batch, side, keys[i], self.every_layer)
        return outputs

    def _at_once(self, model, batch: Batch, sides, key) -> Outputs:
        """Sides of one length as one batch, a row's texts next to each other on its device."""
        names = ('input_tokens', 'segment_ids', 'positions')
        together = lambda name: jnp.stack([batch[f'{side}_{name}'] for side in sides], axis=1)
        fold = lambda x_BxSxL: x_BxSxL.reshape(-1, x_BxSxL.shape[-1])
        folded = {f'encoder_{name}': fold(together(name)) for name in names}
        outputs = encode_side(model, folded, 'encoder', key, self.every_layer)
        return {
            name.replace('encoder', side, 1): x
            for name, found in outputs.items()
            for side, x in zip(sides, neighbours(found, len(sides)), strict=True)
        }


def supervised_simcse(
    *,
    features: tuple[str, ...] = ('anchor', 'positive', 'negative'),
    temperature: float = 0.05,
    hard_weight: float = 0.0,
    pool: Callable = pool_cls,
    mlp: bool = True,
    weight: float | Schedule = 1.0,
) -> Objective:
    """Supervised SimCSE on lengths of three features, or two for no hard negatives.

    In the paper premise, entailment and contradiction of NLI, L = 32, batch 512. The negatives of a
    row are all other positives and all hard negatives of the global batch. Source: Gao et al. 2021.
    """
    head = SentenceHead() if mlp else None
    loss = dict(temperature=temperature, hard_weight=hard_weight)
    term = dict(head=head, weight=weight)
    return _objective('supervised_simcse', Pairs(features=features), pool, loss, term)


def dual_encoder(
    *,
    features: tuple[str, ...] = ('inputs', 'targets'),
    separate: bool = False,
    temperature: float = 0.01,
    learn_temperature: bool = False,
    directions: str = 'sum',
    margin: float = 0.0,
    hard_weight: float = 0.0,
    projection: int | None = None,
    pool: Callable = pool_mean,
    marks: str = 'eos',
    weight: float | Schedule = 1.0,
) -> Objective:
    """A dual encoder on lengths of two features, query and passage, or three with hard negatives.

    The defaults are google-research/t5x_retrieval's: one tower, mean pooling, a projection, cosine
    times 100, the sum of both directions. `separate` gives passages an encoder and a projection of
    their own. CLIP's loss (Radford et al. 2021): separate=True, temperature=0.07,
    learn_temperature=True, directions='mean'.
    """
    head = SimilarityHead(
        size=projection,
        separate=separate,
        temperature=temperature if learn_temperature else None,
    )
    loss = dict(
        temperature=None if learn_temperature else temperature,
        directions=directions,
        margin=margin,
        hard_weight=hard_weight,
    )
    converter = Pairs(features=features, marks=marks)
    term = dict(head=head, weight=weight)
    return _objective('dual_encoder', converter, pool, loss, term, separate)


def _objective(name, converter: Pairs, pool, loss, term, separate: bool = False) -> Objective:
    sides = len(converter.features)
    views = tuple(f'{side}_hidden' for side in SIDES[:sides])
    loss = ContrastiveLoss(pool=pool, views=views, **loss)
    return Objective(
        converter=converter,
        forward=EncodePairs(sides=sides, separate=separate, every_layer=every_layer(pool)),
        terms={name: Term(loss=loss, batchwide=True, **term)},
        parts={TOWER: Tower()} if separate else {},
    )
