"""Prefix LM: a text's beginning is seen both ways, its rest predicted, in one stack or two (T5)."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from t5x_lite.data import packing
from t5x_lite.objective import Objective, Schedule, Term, decode, encode_decode
from t5x_lite.objectives.checks import check_ids, check_lengths
from t5x_lite.objectives.losses import TokenLoss


@dataclass(frozen=True, kw_only=True)
class PrefixLM:
    """Chunks of up to L - 1 tokens and EOS, for a decoder alone.

    A chunk of n tokens has a prefix of p, uniform on [1, n - 1]. The first p + 1 inputs, BOS and
    the prefix, see each other (`decoder_causal_attention` 1); what follows is scored, the prefix
    too if `score_prefix`. Source: Raffel et al. 2020, section 3.2.
    """

    score_prefix: bool = False
    features: ClassVar[tuple[str, ...]] = ('targets',)
    longest: ClassVar[int | None] = 65_536

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        check_lengths('prefix_lm', lengths, {'targets': 3}, 'a token of prefix, a token, EOS')
        if vocabulary is not None:
            check_ids('prefix_lm', vocabulary, 'eos')

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        return packing.decoder_spec(lengths['targets'], 'causal_attention')

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        return packing.Chunks(lengths['targets'] - 1, min_tokens=2)

    def draws(self, lengths: Mapping[str, int]) -> int:
        return 1

    def batch(self, rows: packing.Rows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        prefix_Bx1 = prefix_lengths(rows.lengths, uniforms[:, 0])[:, None]
        rows = ended(rows, vocabulary.eos)
        # A target at place i answers input i: the first that is no prefix stands at place p.
        scored_BxL = rows.segments * (rows.positions >= (0 if self.score_prefix else prefix_Bx1))
        return {
            'decoder_input_tokens': packing.shift_right(rows, vocabulary),
            'decoder_target_tokens': rows.tokens,
            'decoder_loss_weights': scored_BxL.astype(np.float32),
            'decoder_causal_attention': rows.segments * (rows.positions <= prefix_Bx1),
            'decoder_segment_ids': rows.segments,
            'decoder_positions': rows.positions,
        }


@dataclass(frozen=True, kw_only=True)
class PrefixSeq2Seq:
    """Chunks of up to min(Li, Lt) - 1 tokens, for an encoder and a decoder.

    The prefix, uniform on [1, n - 1] tokens, and EOS are the encoder's inputs; the rest and EOS are
    what the decoder writes. Source: Raffel et al. 2020, section 3.2.
    """

    features: ClassVar[tuple[str, ...]] = ('targets',)
    longest: ClassVar[int | None] = 65_536

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        least = {'inputs': 3, 'targets': 3}
        check_lengths('prefix_lm', lengths, least, 'two tokens to cut, EOS')
        if vocabulary is not None:
            check_ids('prefix_lm', vocabulary, 'eos')

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        return packing.seq2seq_spec(lengths['inputs'], lengths['targets'])

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        return packing.Chunks(min(lengths['inputs'], lengths['targets']) - 1, min_tokens=2)

    def draws(self, lengths: Mapping[str, int]) -> int:
        return 1

    def batch(self, rows: packing.Rows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        prefix_B = prefix_lengths(rows.lengths, uniforms[:, 0])
        encoder, decoder = split(rows, prefix_B, lengths, vocabulary.eos)
        weights_BxL = decoder.segments.astype(np.float32)
        return packing.seq2seq_batch(encoder, decoder, weights_BxL, vocabulary)


def prefix_lengths(lengths_B: np.ndarray, uniforms_B: np.ndarray) -> np.ndarray:
    """Tokens of each row's prefix, uniform on [1, length - 1]."""
    return 1 + (uniforms_B * (lengths_B - 1)).astype(np.int64)


def split(
    rows: packing.Rows, prefix_B: np.ndarray, lengths: Mapping[str, int], eos: int
) -> tuple[packing.Rows, packing.Rows]:
    """The first `prefix_B` tokens of each row, [B, Li], and the others, [B, Lt]; EOS after both."""
    prefix = part(rows, 0 * prefix_B, prefix_B, lengths['inputs'] - 1)
    rest = part(rows, prefix_B, rows.lengths - prefix_B, lengths['targets'] - 1)
    return ended(prefix, eos), ended(rest, eos)


def part(rows: packing.Rows, starts_B, lengths_B, width: int) -> packing.Rows:
    """`lengths_B` tokens of each row from `starts_B` on, as rows [B, width]."""
    index_BxL = starts_B[:, None] + np.arange(width)
    last = rows.tokens.shape[1] - 1
    tokens_BxL = np.take_along_axis(rows.tokens, np.minimum(index_BxL, last), axis=1)
    segments_BxL, positions_BxL = packing.extents(lengths_B, width)
    return packing.Rows(tokens_BxL * segments_BxL, segments_BxL, positions_BxL)


def ended(rows: packing.Rows, eos: int) -> packing.Rows:
    """Rows [B, L] of one segment with EOS after each, [B, L + 1]."""
    lengths_B = rows.lengths
    tokens_BxL = np.pad(rows.tokens, ((0, 0), (0, 1)))
    tokens_BxL[np.arange(len(lengths_B)), lengths_B] = eos
    return packing.Rows(tokens_BxL, *packing.extents(lengths_B + 1, tokens_BxL.shape[1]))


def prefix_lm(
    *,
    score_prefix: bool = False,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    weight: float | Schedule = 1.0,
) -> Objective:
    """Prefix LM of a decoder alone, on lengths {'targets': L}."""
    loss = TokenLoss(side='decoder', z_loss=z_loss, label_smoothing=label_smoothing)
    terms = {'prefix_lm': Term(loss=loss, weight=weight)}
    return Objective(converter=PrefixLM(score_prefix=score_prefix), forward=decode, terms=terms)


def prefix_seq2seq(
    *, z_loss: float = 0.0, label_smoothing: float = 0.0, weight: float | Schedule = 1.0
) -> Objective:
    """Prefix LM of an encoder and a decoder, on lengths {'inputs': L, 'targets': L}."""
    loss = TokenLoss(side='decoder', z_loss=z_loss, label_smoothing=label_smoothing)
    terms = {'prefix_lm': Term(loss=loss, weight=weight)}
    return Objective(converter=PrefixSeq2Seq(), forward=encode_decode, terms=terms)
