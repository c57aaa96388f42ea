"""Shuffled tokens put in order again: all written out (T5's deshuffling), or in place (ALBERT)."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from t5x_lite.data import infilling, noise, packing, shuffling
from t5x_lite.errors import ConfigError
from t5x_lite.model.heads import MaskedLMHead
from t5x_lite.objective import Objective, Schedule, Term, encode, encode_decode
from t5x_lite.objectives.checks import check_ids, check_lengths, check_share
from t5x_lite.objectives.losses import TokenLoss


@dataclass(frozen=True, kw_only=True)
class Deshuffle:
    """Chunks of up to min(Li, Lt) - 1 tokens: shuffled and EOS to read, as they were to write.

    With `density` below 1 a uniform choice of max(2, round(density * n)) tokens exchange places and
    the others stay; density 0 changes and scores nothing. All targets are scored. EOS and special
    tokens never move; `unk` is text. Source: Raffel et al. 2020, section 3.3.
    """

    density: float = 1.0
    features: ClassVar[tuple[str, ...]] = ('targets',)
    longest: ClassVar[int | None] = None

    def __post_init__(self):
        check_share('deshuffle', 'density', self.density, default=1.0)

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        check_lengths('deshuffle', lengths, {'inputs': 3, 'targets': 3}, 'two tokens, EOS')
        if vocabulary is not None:
            check_ids('deshuffle', vocabulary, 'eos')

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        return packing.seq2seq_spec(lengths['inputs'], lengths['targets'])

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        return packing.Chunks(min(lengths['inputs'], lengths['targets']) - 1)

    def draws(self, lengths: Mapping[str, int]) -> int:
        raw = min(lengths['inputs'], lengths['targets']) - 1
        return raw * (2 if self.density < 1 else 1)

    def batch(self, rows: packing.Rows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        width = rows.tokens.shape[1]
        moved_BxL = shuffling.text_ids(vocabulary)[rows.tokens] & (rows.segments > 0)
        if self.density < 1:
            text_B = moved_BxL.sum(1)
            counts_B = np.minimum(np.maximum(noise.rounded(self.density * text_B), 2), text_B)
            scores_BxL = np.where(moved_BxL, uniforms[:, width:], 2.0)
            moved_BxL = noise.choose(scores_BxL, counts_B * (self.density > 0))
        order_BxL = shuffling.shuffle(moved_BxL, uniforms[:, :width])
        shuffled = rows._replace(tokens=np.take_along_axis(rows.tokens, order_BxL, axis=1))
        encoder = packing.close(shuffled, vocabulary.eos, lengths['inputs'])
        decoder = packing.close(rows, vocabulary.eos, lengths['targets'])
        weights_BxL = (decoder.segments * (self.density > 0)).astype(np.float32)
        return packing.seq2seq_batch(encoder, decoder, weights_BxL, vocabulary)


@dataclass(frozen=True, kw_only=True)
class PermutedTokens:
    """Rows `[CLS] chunk [SEP]` in which some tokens have exchanged places, those are predicted.

    They are min(max_predictions, max(1, round(rate * len))) tokens, chosen as n-grams that do not
    overlap, n up to `longest_ngram` with p(n) in proportion to 1 / n, the last one cut to fit. Then
    they are shuffled one by one, so that some may stay where they were. Special tokens neither move
    nor are predicted. Source: google-research/albert (Lan et al. 2019), `do_permutation`; without
    the masked LM that it has on the other tokens of the row.
    """

    rate: float = 0.15
    longest_ngram: int = 3
    max_predictions: int | None = None
    features: ClassVar[tuple[str, ...]] = ('targets',)
    longest: ClassVar[int | None] = None

    def __post_init__(self):
        check_share('permuted_tokens', 'rate', self.rate, default=0.15)
        if self.longest_ngram < 1:
            raise ConfigError(
                f'permuted_tokens: longest_ngram={self.longest_ngram} must be 1 or more; try 3'
            )
        if self.max_predictions is not None and self.max_predictions < 1:
            raise ConfigError(
                f'permuted_tokens: max_predictions={self.max_predictions} must be 1 or more; '
                'use None for no limit'
            )

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        check_lengths('permuted_tokens', lengths, {'targets': 4}, '[CLS], two tokens, [SEP]')
        if vocabulary is not None:
            check_ids('permuted_tokens', vocabulary, 'cls', 'sep')

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        shape = (lengths['targets'],)
        names = ('input_tokens', 'target_tokens', 'segment_ids', 'positions')
        spec = {f'encoder_{name}': (shape, np.int32) for name in names}
        places = ((max(1, self._most(lengths)),), np.int32)
        return spec | {
            'encoder_loss_weights': (shape, np.float32),
            'encoder_predicted_positions': places,
        }

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        return packing.Chunks(lengths['targets'] - 2)

    def _most(self, lengths: Mapping[str, int]) -> int:
        return int(noise.prediction_counts(lengths['targets'], self.rate, self.max_predictions))

    def draws(self, lengths: Mapping[str, int]) -> int:
        return self._most(lengths) + 2 * lengths['targets']

    def batch(self, rows: packing.Rows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        rows = packing.frame(rows, vocabulary)
        width, most = rows.tokens.shape[1], self._most(lengths)
        for_lengths, for_places, for_order = np.split(uniforms, [most, most + width], axis=1)
        text_BxL = (rows.segments > 0) & ~vocabulary.special[rows.tokens]
        counts_B = noise.prediction_counts(rows.lengths, self.rate, self.max_predictions)
        chosen_BxL = self._chosen(text_BxL, counts_B, for_lengths, for_places)
        order_BxL = shuffling.shuffle(chosen_BxL, for_order)
        return {
            'encoder_input_tokens': np.take_along_axis(rows.tokens, order_BxL, axis=1),
            'encoder_target_tokens': rows.tokens,
            'encoder_loss_weights': chosen_BxL.astype(np.float32),
            'encoder_segment_ids': rows.segments,
            'encoder_positions': rows.positions,
            'encoder_predicted_positions': noise.chosen_places(chosen_BxL, max(1, most)),
        }

    def _chosen(self, text_BxL, counts_B, for_lengths, for_places) -> np.ndarray:
        """`counts_B` tokens of text of each row, in n-grams, bool [B, L]."""
        if for_lengths.shape[1] == 0:
            return np.zeros(text_BxL.shape, bool)
        text_B = text_BxL.sum(1)
        counts_B = np.minimum(counts_B, text_B)
        drawn_BxS = infilling.draw_lengths(infilling.ngrams(self.longest_ngram), for_lengths)
        spans = infilling.trim(drawn_BxS, counts_B, counts_B)
        places = infilling.place(spans, text_B, text_BxL.shape[1], for_places)
        return infilling.at_tokens(*places, text_BxL, text_BxL)[0]


def deshuffle(
    *,
    density: float = 1.0,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    weight: float | Schedule = 1.0,
) -> Objective:
    """T5's deshuffling on lengths {'inputs': L, 'targets': L}; T5: 512 both."""
    loss = TokenLoss(side='decoder', z_loss=z_loss, label_smoothing=label_smoothing)
    terms = {'deshuffle': Term(loss=loss, weight=weight)}
    return Objective(converter=Deshuffle(density=density), forward=encode_decode, terms=terms)


def permuted_tokens(
    *,
    rate: float = 0.15,
    longest_ngram: int = 3,
    max_predictions: int | None = None,
    weight: float | Schedule = 1.0,
    head=MaskedLMHead(),  # noqa: B008  a frozen value
) -> Objective:
    """An encoder restores tokens that exchanged places, on lengths {'targets': L}."""
    converter = PermutedTokens(
        rate=rate, longest_ngram=longest_ngram, max_predictions=max_predictions
    )
    term = Term(loss=TokenLoss(side='encoder'), weight=weight, head=head)
    return Objective(converter=converter, forward=encode, terms={'permuted_tokens': term})
