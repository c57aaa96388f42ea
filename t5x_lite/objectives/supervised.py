"""Text to text: targets written for inputs, by an encoder and a decoder or a decoder alone (T5)."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from t5x_lite.data import packing, pairs
from t5x_lite.objective import Objective, Schedule, Term, decode, encode_decode
from t5x_lite.objectives.checks import check_ids, check_lengths
from t5x_lite.objectives.joined import Joined
from t5x_lite.objectives.losses import TokenLoss


@dataclass(frozen=True, kw_only=True)
class TextToText:
    """An example is a row of `inputs` and one of `targets`, each cut to fit with EOS after it.

    EOS that the task has put there already is not doubled. An example without targets, or without
    inputs, is dropped.
    """

    features: ClassVar[tuple[str, ...]] = ('inputs', 'targets')
    longest: ClassVar[int | None] = None

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        check_lengths('seq2seq', lengths, dict.fromkeys(self.features, 2), 'a token and EOS')
        if vocabulary is not None:
            check_ids('seq2seq', vocabulary, 'eos')

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        return packing.seq2seq_spec(lengths['inputs'], lengths['targets'])

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        return pairs.Aligned({name: lengths[name] for name in self.features})

    def draws(self, lengths: Mapping[str, int]) -> int:
        return 0

    def batch(self, rows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        inputs, targets = (closed(rows[name], vocabulary.eos) for name in self.features)
        weights_BxL = (targets.segments > 0).astype(np.float32)
        return packing.seq2seq_batch(inputs, targets, weights_BxL, vocabulary)


def closed(rows: packing.Rows, eos: int) -> packing.Rows:
    """Rows [B, L] of one segment that end with EOS: in place of the last token if there is no room.

    A row that ends with it stays as it is.
    """
    tokens_BxL, lengths_B = rows.tokens.copy(), rows.lengths
    row_B, width = np.arange(len(lengths_B)), tokens_BxL.shape[1]
    ends_B = tokens_BxL[row_B, np.maximum(lengths_B - 1, 0)] == eos
    place_B = np.where(ends_B, lengths_B - 1, np.minimum(lengths_B, width - 1))
    tokens_BxL[row_B, place_B] = eos
    return packing.Rows(tokens_BxL, *packing.extents(place_B + 1, width))


@dataclass(frozen=True, kw_only=True)
class Continued(Joined):
    """Inputs and targets in one row as `Joined`, but every token sees those before it alone."""

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        spec = super().spec(lengths)
        return {name: x for name, x in spec.items() if name != 'decoder_causal_attention'}

    def batch(self, rows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        batch = super().batch(rows, lengths, vocabulary, uniforms)
        return {name: x for name, x in batch.items() if name != 'decoder_causal_attention'}


def seq2seq(
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    normalise: str = 'tokens',
    constant: float = 1.0,
    weight: float | Schedule = 1.0,
) -> Objective:
    """Targets from inputs by an encoder and a decoder, lengths {'inputs': Li, 'targets': Lt}."""
    terms = _terms('seq2seq', z_loss, label_smoothing, normalise, constant, weight)
    return Objective(converter=TextToText(), forward=encode_decode, terms=terms)


def lm(
    *,
    prefix: bool = False,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    normalise: str = 'tokens',
    constant: float = 1.0,
    weight: float | Schedule = 1.0,
) -> Objective:
    """Targets after inputs by a decoder, in one row of Li + Lt; targets alone are scored.

    With `prefix` the inputs see each other both ways. The inputs lose their EOS: a text that is to
    tell them apart (such as "answer:") is the task's to write.
    """
    converter = (Joined if prefix else Continued)(converter=TextToText())
    terms = _terms('lm', z_loss, label_smoothing, normalise, constant, weight)
    return Objective(converter=converter, forward=decode, terms=terms)


def _terms(name, z_loss, label_smoothing, normalise, constant, weight) -> dict[str, Term]:
    loss = TokenLoss(
        side='decoder',
        z_loss=z_loss,
        label_smoothing=label_smoothing,
        normalise=normalise,
        constant=constant,
    )
    return {name: Term(loss=loss, weight=weight)}
