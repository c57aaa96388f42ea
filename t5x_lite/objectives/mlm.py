"""Masked LM: 15 % of the tokens are predicted, 80/10/10 masked, random or kept (BERT)."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from t5x_lite.data import annotations, masking, noise, packing, randomness
from t5x_lite.errors import ConfigError
from t5x_lite.model.heads import MaskedLMHead
from t5x_lite.objective import Objective, Schedule, Term, encode
from t5x_lite.objectives.checks import check_ids, check_lengths, check_share
from t5x_lite.objectives.losses import TokenLoss


@dataclass(frozen=True, kw_only=True)
class MaskedLM:
    """Rows `[CLS] chunk [SEP]` with min(max_predictions, max(1, round(rate * len))) predictions.

    `choose` says which ones: single tokens, or units of several, never more tokens than that. Of
    the predicted tokens `mask_share` become [MASK], `random_share` a random ordinary token, and the
    others stay. Special tokens are neither predicted nor drawn.

    `random_count` predicts floor(rate * len + a number in [0, 1)) tokens instead, as RoBERTa does.
    Masks are new each epoch (RoBERTa), or with `static` each row has that many masks, fixed by its
    tokens alone, of which each epoch draws one (BERT's data: 10). Source: Devlin et al. 2018; Liu
    et al. 2019.
    """

    rate: float = 0.15
    max_predictions: int | None = None
    mask_share: float = 0.8
    random_share: float = 0.1
    choose: masking.Choice = masking.Tokens()
    random_count: bool = False
    static: int | None = None
    longest: ClassVar[int | None] = None

    def __post_init__(self):
        for field in ('rate', 'mask_share', 'random_share'):
            check_share('mlm', field, getattr(self, field), default=getattr(MaskedLM, field))
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise ConfigError(
                f'mlm: mask_share={self.mask_share} and random_share={self.random_share} must add '
                f'up to 1 at most; try random_share={1 - self.mask_share:.3g}'
            )
        for field, none in (('max_predictions', 'no limit'), ('static', 'new masks each epoch')):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ConfigError(f'mlm: {field}={value} must be 1 or more; use None for {none}')
        if isinstance(self.choose, type) or not hasattr(self.choose, 'units'):
            raise ConfigError(
                f'mlm: choose={self.choose!r} must be a value of t5x_lite.data.masking; '
                'try masking.WholeWords()'
            )

    @property
    def features(self) -> tuple[str, ...]:
        return (*self.choose.features, 'targets')  # the last one's vocabulary is the objective's

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        check_lengths('mlm', lengths, {'targets': 4}, '[CLS], two tokens, [SEP]')
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
            'encoder_predicted_positions': ((self.most(lengths['targets']),), np.int32),
        }

    def most(self, length: int) -> int:
        """How many tokens of a row of that length are predicted at most, P; 1 if none ever is."""
        draw = np.nextafter(1.0, 0.0) if self.random_count else None
        counts = noise.prediction_counts(length, self.rate, self.max_predictions, draw)
        return max(1, min(length - 2, int(counts)))  # never [CLS], [SEP]

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        length = lengths['targets'] - 2
        if self.choose.features:
            return annotations.AnnotatedChunks(length, self.choose.features)
        return packing.Chunks(length)

    @property
    def _per_token(self) -> int:
        return self.choose.numbers + self.choose.together + 1

    def draws(self, lengths: Mapping[str, int]) -> int:
        own = self.random_count + (self.static is not None)  # of the row as a whole
        return self._per_token * lengths['targets'] + own

    def batch(self, rows: packing.Rows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        rows, marks = rows if self.choose.features else (rows, {})
        rows = packing.frame(rows, vocabulary)
        marks = {name: np.pad(x, ((0, 0), (1, 1))) for name, x in marks.items()}
        return self.corrupt(rows, vocabulary, uniforms, marks)

    def corrupt(self, rows, vocabulary, uniforms, marks=None) -> dict[str, np.ndarray]:
        """The arrays of `spec` for rows [B, L] that have their special tokens already.

        `marks` are the rows' annotations [B, L], by the features that `choose` reads.
        """
        if self.static is not None:
            uniforms = fixed(rows.tokens, self.static, uniforms)
        inputs_BxL, chosen_BxL = self._corrupt(rows, marks or {}, vocabulary, uniforms)
        return {
            'encoder_input_tokens': inputs_BxL,
            'encoder_target_tokens': rows.tokens,
            'encoder_loss_weights': chosen_BxL.astype(np.float32),
            'encoder_segment_ids': rows.segments,
            'encoder_positions': rows.positions,
            'encoder_predicted_positions': noise.chosen_places(
                chosen_BxL, self.most(rows.tokens.shape[1])
            ),
        }

    def _corrupt(self, rows, marks, vocabulary, uniforms) -> tuple[np.ndarray, np.ndarray]:
        """Inputs, and which tokens are predicted, [B, L] each."""
        per_token, width = self._per_token, rows.tokens.shape[1]
        numbers = np.split(uniforms[:, : per_token * width], per_token, axis=1)
        of_row = uniforms[:, per_token * width] if self.random_count else None
        counts_B = noise.prediction_counts(rows.lengths, self.rate, self.max_predictions, of_row)
        open_BxL = (rows.segments > 0) & ~vocabulary.special[rows.tokens]
        text = masking.Text(rows.tokens, open_BxL, vocabulary, marks)
        units_BxL = self.choose.units(text, counts_B, numbers[: self.choose.numbers])
        changes_BxL = numbers[-1]
        if self.choose.together:
            changes_BxL = masking.shared_changes(
                units_BxL, numbers[-2:], self.mask_share, self.random_share
            )
        inputs_BxL = noise.replace_chosen(
            rows.tokens,
            units_BxL >= 0,
            changes_BxL,
            mask=vocabulary.mask,
            ordinary=np.flatnonzero(~vocabulary.special),
            mask_share=self.mask_share,
            random_share=self.random_share,
        )
        return inputs_BxL, units_BxL >= 0


def fixed(tokens_BxL: np.ndarray, copies: int, uniforms: np.ndarray) -> np.ndarray:
    """Uniform numbers, as many, of which each row of tokens has no more than `copies` sets.

    A row's last number says which one it is now: the data path counts no epochs.
    """
    copy_B = (uniforms[:, -1] * copies).astype(np.uint64)
    keys_BxN = np.stack([randomness.hashed(tokens_BxL), copy_B], axis=1)
    return randomness.keyed(randomness.hashed(keys_BxN), uniforms.shape[1])


def mlm(
    *,
    rate: float = 0.15,
    max_predictions: int | None = None,
    mask_share: float = 0.8,
    random_share: float = 0.1,
    choose: masking.Choice = masking.Tokens(),  # noqa: B008  a frozen value
    random_count: bool = False,
    static: int | None = None,
    weight: float | Schedule = 1.0,
    head=MaskedLMHead(),  # noqa: B008  a frozen value
) -> Objective:
    """Masked LM on lengths {'targets': L}. BERT: max_predictions 20 at L = 128, 76 at 512.

    `choose`: masking.Tokens, WholeWords, Ngrams (ALBERT), Spans (SpanBERT), Entities (ERNIE).
    """
    converter = MaskedLM(
        rate=rate,
        max_predictions=max_predictions,
        mask_share=mask_share,
        random_share=random_share,
        choose=choose,
        random_count=random_count,
        static=static,
    )
    term = Term(loss=TokenLoss(side='encoder'), weight=weight, head=head)
    return Objective(converter=converter, forward=encode, terms={'mlm': term})
