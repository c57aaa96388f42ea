"""Joined: an encoder-decoder's objective for a decoder alone, inputs and targets in one row."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from t5x_lite.data import packing
from t5x_lite.errors import ConfigError
from t5x_lite.objective import Converter, Objective, decode, encode_decode


@dataclass(frozen=True, kw_only=True)
class Joined:
    """Inputs and targets of `converter` in one row of Li + Lt: inputs, targets, padding.

    The inputs lose their EOS: the text goes on. With i inputs the first i + 1 places, BOS and the
    inputs, see each other (`decoder_causal_attention` 1), and only targets have their loss weights.
    Source: Raffel et al. 2020, section 3.2; U-PaLM's prefix is joined before it is padded, too (Tay
    et al. 2022b).
    """

    converter: Converter

    @property
    def features(self) -> tuple[str, ...]:
        return self.converter.features

    @property
    def longest(self) -> int | None:
        return self.converter.longest

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        self.converter.check(lengths, vocabulary)
        self._widths(lengths)

    def _widths(self, lengths: Mapping[str, int]) -> tuple[int, int]:
        """Li and Lt; ConfigError unless the converter makes an encoder's and a decoder's rows."""
        spec = self.converter.spec(lengths)
        if spec.keys() != packing.seq2seq_spec(1, 1).keys():
            raise ConfigError(
                f'joined: converter={type(self.converter).__name__} makes {", ".join(spec)}; it '
                'must make the arrays of an encoder and a decoder; try SpanCorruption()'
            )
        return spec['encoder_input_tokens'][0][0], spec['decoder_target_tokens'][0][0]

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        return packing.decoder_spec(sum(self._widths(lengths)), 'causal_attention')

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        return self.converter.cutter(lengths, vocabulary, seed)

    def draws(self, lengths: Mapping[str, int]) -> int:
        return self.converter.draws(lengths)

    def batch(self, rows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        both = self.converter.batch(rows, lengths, vocabulary, uniforms)
        rows, begins_Bx1 = join(both, vocabulary.eos)
        weights_BxL = np.zeros(rows.tokens.shape, np.float32)
        _put(weights_BxL, begins_Bx1, both['decoder_loss_weights'])
        return {
            'decoder_input_tokens': packing.shift_right(rows, vocabulary),
            'decoder_target_tokens': rows.tokens,
            'decoder_loss_weights': weights_BxL,
            'decoder_causal_attention': rows.segments * (rows.positions <= begins_Bx1),
            'decoder_segment_ids': rows.segments,
            'decoder_positions': rows.positions,
        }


def join(both: Mapping[str, np.ndarray], eos: int | None) -> tuple[packing.Rows, np.ndarray]:
    """Rows [B, Li + Lt] of an encoder-decoder's batch, and where their targets begin, [B, 1].

    Raises:
      ConfigError: a row holds several segments; their inputs and targets cannot be told apart.
    """
    inputs_BxL, targets_BxL = both['encoder_input_tokens'], both['decoder_target_tokens']
    for side in ('encoder', 'decoder'):
        if (both[f'{side}_segment_ids'] > 1).any():
            raise ConfigError(
                f'joined: {side}_segment_ids must be one segment in each row; join first, then '
                'pack: packed(objective=joined(...))'
            )
    inputs_B = np.count_nonzero(both['encoder_segment_ids'], axis=1)
    last_B = inputs_BxL[np.arange(len(inputs_B)), np.maximum(inputs_B - 1, 0)]
    inputs_B -= (inputs_B > 0) & (last_B == eos)
    lengths_B = inputs_B + np.count_nonzero(both['decoder_segment_ids'], axis=1)
    tokens_BxL = np.pad(inputs_BxL, ((0, 0), (0, targets_BxL.shape[1])))
    _put(tokens_BxL, inputs_B[:, None], targets_BxL)
    segments_BxL, positions_BxL = packing.extents(lengths_B, tokens_BxL.shape[1])
    rows = packing.Rows(tokens_BxL * segments_BxL, segments_BxL, positions_BxL)
    return rows, inputs_B[:, None]


def _put(out_BxL: np.ndarray, begins_Bx1: np.ndarray, values_BxL: np.ndarray) -> None:
    """Writes each row of values into a row of `out`, from its own place on."""
    places_BxL = begins_Bx1 + np.arange(values_BxL.shape[1])
    np.put_along_axis(out_BxL, places_BxL, values_BxL, axis=1)


def joined(objective: Objective) -> Objective:
    """An encoder-decoder's objective for a decoder alone: `joined(span_corruption())`.

    Lengths {'inputs': Li, 'targets': Lt} make rows of Li + Lt tokens.

    Raises:
      ConfigError: the objective's forward is not `encode_decode`.
    """
    forward = objective.forward
    if forward is not encode_decode:
        name = getattr(forward, '__name__', type(forward).__name__)
        raise ConfigError(
            f'joined: objective.forward={name} must be encode_decode; try joined(span_corruption())'
        )
    return dataclasses.replace(
        objective, converter=Joined(converter=objective.converter), forward=decode
    )
