"""Contrastive sentence vectors: unsupervised SimCSE, alone or with masked LM."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from t5x_lite.data import packing, pairs
from t5x_lite.model.heads import MaskedLMHead, SentenceHead
from t5x_lite.objective import Objective, Schedule, Term, encode_twice, encode_twice_layers
from t5x_lite.objectives.checks import check_ids, check_lengths
from t5x_lite.objectives.losses import TokenLoss
from t5x_lite.objectives.mlm import MaskedLM
from t5x_lite.objectives.similarity import ContrastiveLoss, every_layer, pool_cls


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """Rows `[CLS] sentence [SEP]`, one sentence each, cut to fit."""

    features: ClassVar[tuple[str, ...]] = ('targets',)
    longest: ClassVar[int | None] = None

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        check_lengths('simcse', lengths, {'targets': 3}, '[CLS], a token, [SEP]')
        if vocabulary is not None:
            check_ids('simcse', vocabulary, 'cls', 'sep')

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        return pairs.side_spec('encoder', lengths['targets'])

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        return packing.Sentences(lengths['targets'] - 2, vocabulary)

    def draws(self, lengths: Mapping[str, int]) -> int:
        return 0

    def batch(self, rows: packing.Rows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        return pairs.side_batch('encoder', packing.frame(rows, vocabulary))


@dataclass(frozen=True, kw_only=True)
class MaskedSentences(MaskedLM):
    """Masked LM's corruption on rows `[CLS] sentence [SEP]`."""

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        return super().spec(lengths) | {'encoder_example_ids': ((), np.int32)}

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        return packing.Sentences(lengths['targets'] - 2, vocabulary)

    def batch(self, rows: packing.Rows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        batch = super().batch(rows, lengths, vocabulary, uniforms)
        return batch | {'encoder_example_ids': pairs.text_ids(batch['encoder_target_tokens'])}


def simcse_term(
    *, temperature: float = 0.05, pool: Callable = pool_cls, mlp: bool = True, weight=1.0
) -> Term:
    """Contrastive loss between two views; `mlp` puts a dense and tanh on the pooled vector."""
    return Term(
        loss=ContrastiveLoss(temperature=temperature, pool=pool),
        head=SentenceHead() if mlp else None,
        weight=weight,
        batchwide=True,
    )


def two_views(pool: Callable) -> Callable:
    """The forward that gives a pooling function what it needs of two views."""
    return encode_twice_layers if every_layer(pool) else encode_twice


def simcse(
    *,
    temperature: float = 0.05,
    pool: Callable = pool_cls,
    mlp: bool = True,
    weight: float | Schedule = 1.0,
) -> Objective:
    """Unsupervised SimCSE on lengths {'targets': L}; the paper: L = 32, batch 64, dropout 0.1.

    The two views of a sentence differ in their dropout masks; the other sentences of the global
    batch are the negatives. Source: Gao et al. 2021.
    """
    term = simcse_term(temperature=temperature, pool=pool, mlp=mlp, weight=weight)
    return Objective(converter=Sentences(), forward=two_views(pool), terms={'simcse': term})


def mlm_simcse(
    *,
    rate: float = 0.15,
    mlm_weight: float | Schedule = 0.1,
    temperature: float = 0.05,
    pool: Callable = pool_cls,
    mlp: bool = True,
) -> Objective:
    """Masked LM and SimCSE as two terms of one forward over masked sentences.

    Gao et al. (2021) give masked LM the weight 0.1 and encode the unmasked sentence for SimCSE with
    a pass of its own; here both views are of the masked one.
    """
    terms = {
        'mlm': Term(loss=TokenLoss(side='encoder'), weight=mlm_weight, head=MaskedLMHead()),
        'simcse': simcse_term(temperature=temperature, pool=pool, mlp=mlp),
    }
    return Objective(converter=MaskedSentences(rate=rate), forward=two_views(pool), terms=terms)
