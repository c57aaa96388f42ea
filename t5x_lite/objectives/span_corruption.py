"""Span corruption: noise spans become sentinels, the decoder writes what they hid (T5)."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from t5x_lite.data import noise, packing
from t5x_lite.errors import ConfigError
from t5x_lite.objective import Objective, Schedule, Term, encode_decode
from t5x_lite.objectives.checks import check_ids, check_lengths
from t5x_lite.objectives.losses import TokenLoss


@dataclass(frozen=True, kw_only=True)
class SpanCorruption:
    """Documents joined without marks and cut to the raw length that fills the inputs exactly.

    Of a document of more than `longest` tokens one piece of that length is used, as in T5.
    Inputs: the text with one sentinel for each noise span, and EOS. Targets: each sentinel and its
    span, and EOS; `closing_sentinel` adds one more before EOS, as in the paper's figure but not in
    its code. Density 0 leaves the text alone and scores nothing. Source: Raffel et al. 2020.
    """

    density: float = 0.15
    mean_span: float = 3.0
    closing_sentinel: bool = False
    longest: int | None = 65_536
    features: ClassVar[tuple[str, ...]] = ('targets',)

    def __post_init__(self):
        if not 0 <= self.density < 1:
            raise ConfigError(
                f'span_corruption: density={self.density} must be in [0, 1); try 0.15'
            )
        if self.mean_span < 1:
            raise ConfigError(
                f'span_corruption: mean_span={self.mean_span} must be 1 or more; try 3'
            )
        if self.longest is not None and self.longest < 2:
            raise ConfigError(
                f'span_corruption: longest={self.longest} must be 2 or more, or None for whole '
                'documents; try 65536'
            )

    @property
    def _closing(self) -> bool:
        return self.closing_sentinel and self.density > 0

    def _raw(self, lengths: Mapping[str, int]) -> tuple[int, int]:
        raw, targets = noise.raw_length(lengths['inputs'], self.density, self.mean_span)
        return raw, targets + self._closing

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        least = {'inputs': 3, 'targets': 3}
        check_lengths('span_corruption', lengths, least, 'a token, a sentinel, EOS')
        raw, targets = self._raw(lengths)
        if lengths['targets'] < targets:
            raise ConfigError(
                f"span_corruption: lengths['targets']={lengths['targets']} must be {targets} or "
                f'more for {lengths["inputs"]} inputs at density={self.density} and mean_span='
                f'{self.mean_span}; try {targets}'
            )
        if vocabulary is not None:
            check_ids('span_corruption', vocabulary, 'eos')
            self._check_sentinels(raw, len(vocabulary.sentinels))

    def _check_sentinels(self, raw: int, known: int) -> None:
        needed = int(noise.span_counts(raw, self.density, self.mean_span)[1]) + self._closing
        if needed > known:
            raise ConfigError(
                f'span_corruption: {raw} tokens at density={self.density} and mean_span='
                f'{self.mean_span} need {needed} sentinels, but the vocabulary has {known}; use '
                f'one with extra_ids={needed}, a shorter input or a longer mean_span'
            )

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        return packing.seq2seq_spec(lengths['inputs'], lengths['targets'])

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        return packing.Concatenate(self._raw(lengths)[0], eos=None, separate=False, min_tokens=2)

    def draws(self, lengths: Mapping[str, int]) -> int:
        return self._raw(lengths)[0]

    def sides(
        self, rows: packing.Rows, lengths: Mapping[str, int], vocabulary, uniforms
    ) -> tuple[packing.Rows, packing.Rows]:
        """Inputs [B, Li] and targets [B, Lt] of rows, with EOS; `uniforms` as wide as rows."""
        width = rows.tokens.shape[1]
        mask_BxL = noise.span_mask(rows.lengths, width, self.density, self.mean_span, uniforms)
        (inputs_BxL, inputs_B), (targets_BxL, targets_B) = noise.split_spans(
            rows.tokens,
            mask_BxL,
            rows.lengths,
            vocabulary.sentinels,
            (lengths['inputs'], lengths['targets']),
        )
        index_B = np.arange(len(rows.tokens))
        if self._closing:
            _, spans_B = noise.span_counts(rows.lengths, self.density, self.mean_span)
            targets_BxL[index_B, targets_B] = np.asarray(vocabulary.sentinels)[spans_B]
            targets_B = targets_B + 1
        inputs_BxL[index_B, inputs_B] = targets_BxL[index_B, targets_B] = vocabulary.eos
        encoder = packing.Rows(inputs_BxL, *packing.extents(inputs_B + 1, lengths['inputs']))
        decoder = packing.Rows(targets_BxL, *packing.extents(targets_B + 1, lengths['targets']))
        return encoder, decoder

    def batch(self, rows: packing.Rows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        encoder, decoder = self.sides(rows, lengths, vocabulary, uniforms)
        weights_BxL = (decoder.segments * (self.density > 0)).astype(np.float32)
        return packing.seq2seq_batch(encoder, decoder, weights_BxL, vocabulary)


def span_corruption(
    *,
    density: float = 0.15,
    mean_span: float = 3.0,
    closing_sentinel: bool = False,
    longest: int | None = 65_536,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    weight: float | Schedule = 1.0,
) -> Objective:
    """T5's span corruption on lengths {'inputs': Li, 'targets': Lt}; T5: 512 and 114."""
    converter = SpanCorruption(
        density=density,
        mean_span=mean_span,
        closing_sentinel=closing_sentinel,
        longest=longest,
    )
    loss = TokenLoss(side='decoder', z_loss=z_loss, label_smoothing=label_smoothing)
    terms = {'span_corruption': Term(loss=loss, weight=weight)}
    return Objective(converter=converter, forward=encode_decode, terms=terms)
