"""Masked LM: 15 % of the tokens are predicted, 80/10/10 masked, random or kept (BERT)."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from t5x_lite.data import noise, packing
from t5x_lite.errors import ConfigError
from t5x_lite.model.heads import MaskedLMHead
from t5x_lite.objective import Objective, Schedule, Term, encode
from t5x_lite.objectives.checks import check_ids, check_lengths, check_share
from t5x_lite.objectives.losses import TokenLoss


@dataclass(frozen=True, kw_only=True)
class MaskedLM:
    """Rows `[CLS] chunk [SEP]` with min(max_predictions, max(1, round(rate * len))) predictions.

    Of the predicted tokens `mask_share` become [MASK], `random_share` a random ordinary token, and
    the others stay. Special tokens are neither predicted nor drawn. New masks each epoch. Source:
    Devlin et al. 2018; Liu et al. 2019 (dynamic masks).
    """

    rate: float = 0.15
    max_predictions: int | None = None
    mask_share: float = 0.8
    random_share: float = 0.1
    features: ClassVar[tuple[str, ...]] = ('targets',)
    longest: ClassVar[int | None] = None

    def __post_init__(self):
        for field in ('rate', 'mask_share', 'random_share'):
            check_share('mlm', field, getattr(self, field), default=getattr(MaskedLM, field))
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise ConfigError(
                f'mlm: mask_share={self.mask_share} and random_share={self.random_share} must add '
                f'up to 1 at most; try random_share={1 - self.mask_share:.3g}'
            )
        if self.max_predictions is not None and self.max_predictions < 1:
            raise ConfigError(
                f'mlm: max_predictions={self.max_predictions} must be 1 or more; '
                'use None for no limit'
            )

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        check_lengths('mlm', lengths, {'targets': 3}, '[CLS], a token, [SEP]')
        if vocabulary is not None:
            check_ids('mlm', vocabulary, 'cls', 'sep', 'mask')

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        shape = (lengths['targets'],)
        return {
            'encoder_input_tokens': (shape, np.int32),
            'encoder_target_tokens': (shape, np.int32),
            'encoder_loss_weights': (shape, np.float32),
            'encoder_segment_ids': (shape, np.int32),
            'encoder_positions': (shape, np.int32),
        }

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        return packing.Chunks(lengths['targets'] - 2)

    def draws(self, lengths: Mapping[str, int]) -> int:
        return 2 * lengths['targets']

    def batch(self, rows: packing.Rows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        return self.corrupt(packing.frame(rows, vocabulary), vocabulary, uniforms)

    def corrupt(self, rows: packing.Rows, vocabulary, uniforms) -> dict[str, np.ndarray]:
        """The arrays of `spec` for rows [B, L] that have their special tokens already."""
        scores_BxL, changes_BxL = np.split(uniforms, 2, axis=1)
        open_BxL = (rows.segments > 0) & ~vocabulary.special[rows.tokens]
        counts_B = noise.prediction_counts(rows.lengths, self.rate, self.max_predictions)
        chosen_BxL = noise.choose(
            np.where(open_BxL, scores_BxL, 2.0), np.minimum(counts_B, open_BxL.sum(1))
        )
        inputs_BxL = noise.replace_chosen(
            rows.tokens,
            chosen_BxL,
            changes_BxL,
            mask=vocabulary.mask,
            ordinary=np.flatnonzero(~vocabulary.special),
            mask_share=self.mask_share,
            random_share=self.random_share,
        )
        return {
            'encoder_input_tokens': inputs_BxL,
            'encoder_target_tokens': rows.tokens,
            'encoder_loss_weights': chosen_BxL.astype(np.float32),
            'encoder_segment_ids': rows.segments,
            'encoder_positions': rows.positions,
        }


def mlm(
    *,
    rate: float = 0.15,
    max_predictions: int | None = None,
    mask_share: float = 0.8,
    random_share: float = 0.1,
    weight: float | Schedule = 1.0,
    head=MaskedLMHead(),  # noqa: B008  a frozen value
) -> Objective:
    """Masked LM on lengths {'targets': L}. BERT: max_predictions 20 at L = 128, 76 at 512."""
    converter = MaskedLM(
        rate=rate,
        max_predictions=max_predictions,
        mask_share=mask_share,
        random_share=random_share,
    )
    term = Term(loss=TokenLoss(side='encoder'), weight=weight, head=head)
    return Objective(converter=converter, forward=encode, terms={'mlm': term})
