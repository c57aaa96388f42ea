"""Causal LM: each token from those before it, on packed documents (GPT-2; T5's `lm`)."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from t5x_lite.data import packing
from t5x_lite.objective import Objective, Schedule, Term, decode
from t5x_lite.objectives.checks import check_ids, check_lengths
from t5x_lite.objectives.losses import TokenLoss


@dataclass(frozen=True, kw_only=True)
class CausalLM:
    """Documents, each with EOS after it, joined and cut to exactly L; every target is scored.

    Without `join` each row holds one document, or a piece of up to L tokens: for `packed`. With
    `separate` a row's documents are segments that do not see each other (one cut by the row's
    end goes on in the next row as a new segment); without, a row is one stream as in GPT-2. The
    first input of each segment is BOS. Source: Radford et al. 2019.
    """

    separate: bool = True
    join: bool = True
    features: ClassVar[tuple[str, ...]] = ('targets',)
    longest: ClassVar[int | None] = None

    @property
    def packs(self) -> bool:
        """Rows hold several documents that do not see each other."""
        return self.join and self.separate

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        check_lengths('causal_lm', lengths, {'targets': 2}, 'a token and EOS')
        if vocabulary is not None:
            check_ids('causal_lm', vocabulary, 'eos')

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        return packing.decoder_spec(lengths['targets'])

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        length, eos = lengths['targets'], vocabulary.eos
        if not self.join:
            return packing.Documents(length, eos)
        return packing.Concatenate(length, eos=eos, separate=self.separate)

    def draws(self, lengths: Mapping[str, int]) -> int:
        return 0

    def batch(self, rows: packing.Rows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        return {
            'decoder_input_tokens': packing.shift_right(rows, vocabulary),
            'decoder_target_tokens': rows.tokens,
            'decoder_loss_weights': (rows.segments > 0).astype(np.float32),
            'decoder_segment_ids': rows.segments,
            'decoder_positions': rows.positions,
        }


def causal_lm(
    *,
    separate: bool = True,
    join: bool = True,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    weight: float | Schedule = 1.0,
) -> Objective:
    """Causal LM on lengths {'targets': L}."""
    loss = TokenLoss(side='decoder', z_loss=z_loss, label_smoothing=label_smoothing)
    terms = {'causal_lm': Term(loss=loss, weight=weight)}
    return Objective(converter=CausalLM(separate=separate, join=join), forward=decode, terms=terms)
