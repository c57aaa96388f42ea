"""UL2: a mixture of denoisers, each with a mode token, for two stacks or one (UL2R)."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from t5x_lite.data import mixed_rows, noise, packing
from t5x_lite.data.vocabularies import MODES
from t5x_lite.errors import ConfigError, nearest
from t5x_lite.objective import Objective, Schedule, Term, encode_decode
from t5x_lite.objectives.checks import check_ids, check_lengths
from t5x_lite.objectives.joined import joined
from t5x_lite.objectives.losses import TokenLoss
from t5x_lite.objectives.prefix_lm import prefix_lengths, split
from t5x_lite.objectives.span_corruption import SpanCorruption

NLU, S2S, NLG = MODES


class Sizes(NamedTuple):
    """What a denoiser needs to fill its inputs: tokens of text, of targets, and sentinels."""

    raw: int
    targets: int
    sentinels: int


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """Span corruption with its mode token before the inputs (None: no token).

    `share` is how many rows of a cycle are of this kind, so 3 of 15 are 20 %.
    """

    mean_span: float
    density: float
    mode: str | None
    share: int = 1

    def __post_init__(self):
        _check_share(self)
        if not 0 < self.density < 1:
            raise ConfigError(f'Denoiser: density={self.density} must be in (0, 1); try 0.15')
        if self.mean_span < 1:
            raise ConfigError(f'Denoiser: mean_span={self.mean_span} must be 1 or more; try 3')

    def sizes(self, lengths: Mapping[str, int]) -> Sizes:
        """For inputs of that length, without the mode token."""
        raw, targets = noise.raw_length(lengths['inputs'], self.density, self.mean_span)
        return Sizes(raw, targets, int(noise.span_counts(raw, self.density, self.mean_span)[1]))

    def sides(self, rows: packing.Rows, lengths, vocabulary, uniforms):
        """Inputs [B, Li] without the mode token, and targets [B, Lt]."""
        spans = SpanCorruption(density=self.density, mean_span=self.mean_span)
        return spans.sides(rows, lengths, vocabulary, uniforms)


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """Prefix LM with its mode token before the inputs (None: no token).

    The targets are the last `density` of the text; None draws the prefix uniformly on [1, n - 1],
    of n = min(Li, Lt) - 1 tokens, so that rows do not fill the inputs. `share` as in `Denoiser`.
    """

    density: float | None = 0.25
    mode: str | None = S2S
    share: int = 1

    def __post_init__(self):
        _check_share(self)
        if self.density is not None and not 0 < self.density < 1:
            raise ConfigError(
                f'Prefix: density={self.density} must be in (0, 1), or None for a uniform split; '
                'try 0.25'
            )

    def sizes(self, lengths: Mapping[str, int]) -> Sizes:
        """For inputs of that length, without the mode token."""
        inputs = lengths['inputs']
        if self.density is None:
            raw = min(inputs, lengths['targets']) - 1
            return Sizes(raw, raw, 0)
        raws = np.arange(inputs - 1, int(inputs / (1 - self.density)) + 3)
        filled = raws - self._suffixes(raws) + 1  # never decreases
        raw = raws[np.searchsorted(filled, inputs, side='right') - 1]
        return Sizes(int(raw), int(self._suffixes(raw)) + 1, 0)

    def _suffixes(self, lengths):
        return np.clip(noise.rounded(lengths * self.density), 1, lengths - 1)

    def sides(self, rows: packing.Rows, lengths, vocabulary, uniforms):
        """Inputs [B, Li] without the mode token, and targets [B, Lt]."""
        lengths_B = rows.lengths
        if self.density is None:
            prefix_B = prefix_lengths(lengths_B, uniforms[:, 0])
        else:
            prefix_B = lengths_B - self._suffixes(lengths_B)
        return split(rows, prefix_B, lengths, vocabulary.eos)


def _check_share(denoiser) -> None:
    if type(denoiser.share) is not int or denoiser.share < 1:
        raise ConfigError(
            f'{type(denoiser).__name__}: share={denoiser.share!r} must be an integer of 1 or more, '
            'rows of a cycle; try 1'
        )


UL2 = (
    Denoiser(mean_span=3.0, density=0.15, mode=NLU, share=2),
    Denoiser(mean_span=8.0, density=0.15, mode=NLU, share=2),
    Prefix(share=3),
    Denoiser(mean_span=3.0, density=0.5, mode=NLG, share=2),
    Denoiser(mean_span=8.0, density=0.5, mode=NLG, share=2),
    Denoiser(mean_span=64.0, density=0.15, mode=NLG, share=2),
    Denoiser(mean_span=64.0, density=0.5, mode=NLG, share=2),
)
"""Tay et al. 2022, Table 1: R twice, S (20 % of the rows), X four times."""

UL2R = (
    Denoiser(mean_span=3.0, density=0.15, mode=NLU, share=1),
    Prefix(density=None, share=2),
    Denoiser(mean_span=32.0, density=0.5, mode=NLG, share=1),
)
"""Tay et al. 2022b: half prefix LM, a quarter regular, a quarter extreme.

Of the extreme one the paper says: a mean span of 32, or a density of up to 0.5.
"""


@dataclass(frozen=True, kw_only=True)
class DenoiserMixture:
    """Documents joined without marks; each row is cut to what its denoiser needs to fill Li.

    Inputs: mode token, corrupted text, EOS. Targets: what is missing, EOS. Of a document of more
    than 65,536 tokens one piece of that length is used, as in T5. Where the density is 0.5, T5's
    rule for that may leave one place of the inputs empty. Source: Tay et al. 2022.
    """

    denoisers: tuple[Denoiser | Prefix, ...] = UL2
    features: ClassVar[tuple[str, ...]] = ('targets',)
    longest: ClassVar[int | None] = 65_536

    def __post_init__(self):
        object.__setattr__(self, 'denoisers', tuple(self.denoisers))
        if not self.denoisers:
            raise ConfigError('ul2: denoisers=() must hold at least one; try ul2.UL2')

    def _sizes(self, lengths: Mapping[str, int]) -> list[Sizes]:
        return [denoiser.sizes(_inner(denoiser, lengths)) for denoiser in self.denoisers]

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        least = {'inputs': 4, 'targets': 3}
        check_lengths('ul2', lengths, least, 'a mode token, a token, a sentinel, EOS')
        sizes = self._sizes(lengths)
        longest = max(range(len(sizes)), key=lambda k: sizes[k].targets)
        if lengths['targets'] < sizes[longest].targets:
            raise ConfigError(
                f"ul2: lengths['targets']={lengths['targets']} must be {sizes[longest].targets} or "
                f'more: so many does {self.denoisers[longest]} make of {lengths["inputs"]} inputs; '
                f'try {sizes[longest].targets}'
            )
        if vocabulary is not None:
            check_ids('ul2', vocabulary, 'eos')
            self._check_modes(vocabulary)
            self._check_sentinels(sizes, len(vocabulary.sentinels))

    def _check_modes(self, vocabulary) -> None:
        for denoiser in self.denoisers:
            if denoiser.mode is not None and denoiser.mode not in vocabulary.modes:
                raise ConfigError(
                    f'ul2: {denoiser}: the vocabulary of {vocabulary.size} ids has no mode token '
                    f'{denoiser.mode!r}; {nearest(denoiser.mode, vocabulary.modes)}; use a '
                    'vocabulary that has them, such as t5x_lite.data.vocabularies.bundled(), or '
                    'denoisers with mode=None'
                )

    def _check_sentinels(self, sizes: list[Sizes], known: int) -> None:
        most = max(range(len(sizes)), key=lambda k: sizes[k].sentinels)
        needed = sizes[most].sentinels
        if needed > known:
            raise ConfigError(
                f'ul2: {self.denoisers[most]} needs {needed} sentinels for {sizes[most].raw} '
                f'tokens, but the vocabulary has {known}; use one with extra_ids={needed}, a '
                'shorter input or a longer mean_span'
            )

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        return packing.seq2seq_spec(lengths['inputs'], lengths['targets'])

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        sizes = [size.raw for size in self._sizes(lengths)]
        return mixed_rows.ConcatenateByKind(
            sizes, [denoiser.share for denoiser in self.denoisers], seed
        )

    def draws(self, lengths: Mapping[str, int]) -> int:
        return max(size.raw for size in self._sizes(lengths))

    def batch(
        self, rows: mixed_rows.MixedRows, lengths, vocabulary, uniforms
    ) -> dict[str, np.ndarray]:
        inputs_BxL = np.zeros((len(rows.kinds), lengths['inputs']), np.int32)
        targets_BxL = np.zeros((len(rows.kinds), lengths['targets']), np.int32)
        inputs_B, targets_B = np.zeros((2, len(rows.kinds)), np.int64)
        for kind, (denoiser, size) in enumerate(
            zip(self.denoisers, self._sizes(lengths), strict=True)
        ):
            own = np.flatnonzero(rows.kinds == kind)
            inner, begin = _inner(denoiser, lengths), int(denoiser.mode is not None)
            extents = packing.extents(rows.lengths[own], size.raw)
            text = packing.Rows(rows.tokens[own, : size.raw], *extents)
            sides = denoiser.sides(text, inner, vocabulary, uniforms[own, : size.raw])
            inputs_BxL[own, begin:], targets_BxL[own] = sides[0].tokens, sides[1].tokens
            inputs_B[own], targets_B[own] = begin + sides[0].lengths, sides[1].lengths
            if denoiser.mode is not None:
                inputs_BxL[own, 0] = vocabulary.modes[denoiser.mode]
        encoder = packing.Rows(inputs_BxL, *packing.extents(inputs_B, lengths['inputs']))
        decoder = packing.Rows(targets_BxL, *packing.extents(targets_B, lengths['targets']))
        weights_BxL = decoder.segments.astype(np.float32)
        return packing.seq2seq_batch(encoder, decoder, weights_BxL, vocabulary)


def _inner(denoiser: Denoiser | Prefix, lengths: Mapping[str, int]) -> dict[str, int]:
    """The lengths without the place that the mode token takes."""
    return {**lengths, 'inputs': lengths['inputs'] - (denoiser.mode is not None)}


def ul2(
    *,
    denoisers: tuple[Denoiser | Prefix, ...] = UL2,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    weight: float | Schedule = 1.0,
) -> Objective:
    """UL2 of an encoder and a decoder, on lengths {'inputs': Li, 'targets': Lt}; Lt = Li is enough.

    The paper: 512 and 512. Another mixture is another tuple of `Denoiser` and `Prefix`.
    """
    loss = TokenLoss(side='decoder', z_loss=z_loss, label_smoothing=label_smoothing)
    return Objective(
        converter=DenoiserMixture(denoisers=denoisers),
        forward=encode_decode,
        terms={'ul2': Term(loss=loss, weight=weight)},
    )


def ul2_decoder(
    *,
    denoisers: tuple[Denoiser | Prefix, ...] = UL2,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    weight: float | Schedule = 1.0,
) -> Objective:
    """UL2 of a decoder alone: rows of Li + Lt tokens, the inputs seen both ways."""
    return joined(
        ul2(denoisers=denoisers, z_loss=z_loss, label_smoothing=label_smoothing, weight=weight)
    )


def ul2r(
    *,
    denoisers: tuple[Denoiser | Prefix, ...] = UL2R,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    weight: float | Schedule = 1.0,
) -> Objective:
    """UL2R, to go on training a causal LM: a decoder alone; the paper: 1024 and 1024."""
    return joined(
        ul2(denoisers=denoisers, z_loss=z_loss, label_smoothing=label_smoothing, weight=weight)
    )
