"""Denoising: sentences in random order, holes of unknown length; the text is restored (BART)."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from t5x_lite.data import infilling, noise, packing, sentences, shuffling
from t5x_lite.errors import ConfigError
from t5x_lite.objective import Objective, Schedule, Term, encode_decode
from t5x_lite.objectives.checks import check_ids, check_lengths, check_share
from t5x_lite.objectives.losses import TokenLoss

SHARES = ('mask_share', 'random_share', 'token_masking', 'token_deletion', 'rotation')
marks_of = functools.lru_cache(maxsize=8)(sentences.marks)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What is done to a text, in this order; the defaults are the paper's (Lewis et al. 2019).

    Attributes:
      permute_sentences: all sentences of the row, in uniformly random order.
      mask_share: text infilling hides ceil(mask_share * words) words.
      mean_span: words of a span, from Poisson's distribution; each span becomes one mask, one of
        length 0 adds a mask. Spans never overlap. (In fairseq they may, and a share of 0.30 hides
        about 0.27 of the words.)
      whole_words: spans of words, if the vocabulary knows where words start; else of tokens.
      token_masking, token_deletion: probability of each token of text that is left.
      rotation: probability that a row begins at a uniform place, with what was before it at its
        end.
      random_share: probability that a mask is a random ordinary token instead.
    """

    permute_sentences: bool = True
    mask_share: float = 0.3
    mean_span: float = 3.0
    whole_words: bool = True
    token_masking: float = 0.0
    token_deletion: float = 0.0
    rotation: float = 0.0
    random_share: float = 0.0

    def __post_init__(self):
        for field in SHARES:
            check_share('denoising', field, getattr(self, field), default=getattr(Noise, field))
        if not 1 <= self.mean_span <= 1000:
            raise ConfigError(f'denoising: mean_span={self.mean_span} must be in [1, 1000]; try 3')

    @property
    def masks(self) -> bool:
        """Whether there may be masks."""
        return self.mask_share > 0 or self.token_masking > 0

    @property
    def changes(self) -> bool:
        """Whether anything is done at all."""
        others = self.permute_sentences or self.token_deletion > 0 or self.rotation > 0
        return self.masks or others


def bart() -> Noise:
    """The default, the paper's: sentences permuted, 30 % of the words in spans of Poisson(3)."""
    return Noise()


def bart_released() -> Noise:
    """As the released models were trained (github.com/facebookresearch/fairseq/issues/1899)."""
    return Noise(mean_span=3.5, random_share=0.1)


def mbart() -> Noise:
    """mBART: sentences permuted, 35 % of the words in spans of Poisson(3.5) (Liu et al. 2020)."""
    return Noise(mask_share=0.35, mean_span=3.5)


@dataclass(frozen=True, kw_only=True)
class Denoising:
    """Chunks of up to min(Li, Lt) - 1 tokens: with noise and EOS to read, and with EOS to write.

    All targets are scored. A row is one document or a piece of one. Noise never makes a row longer
    than Li - 1: spans of length 0 for which there is no room are left out, nothing else ever is.
    EOS and special tokens are never hidden, moved or drawn; `unk` is text. Without any noise
    nothing is scored.
    """

    noise: Noise = Noise()
    features: ClassVar[tuple[str, ...]] = ('targets',)
    longest: ClassVar[int | None] = None

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        check_lengths('denoising', lengths, {'inputs': 3, 'targets': 3}, 'two tokens, EOS')
        if vocabulary is None:
            return
        check_ids('denoising', vocabulary, 'eos', *['mask'] * self.noise.masks)
        if self.noise.permute_sentences:
            table = marks_of(vocabulary)
            if not (table.newline | table.final).any():
                raise ConfigError(
                    f'denoising: permute_sentences=True, but none of the {vocabulary.size} pieces '
                    'of the vocabulary ends a sentence; use Noise(permute_sentences=False)'
                )

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        return packing.seq2seq_spec(lengths['inputs'], lengths['targets'])

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        return packing.Chunks(self._raw(lengths))

    def _raw(self, lengths: Mapping[str, int]) -> int:
        return min(lengths['inputs'], lengths['targets']) - 1

    def sizes(self, lengths: Mapping[str, int]) -> dict[str, int]:
        """How many numbers each kind of noise needs."""
        n, raw, width = self.noise, self._raw(lengths), lengths['inputs'] - 1
        most = int(infilling.budgets(np.array(raw), n.mask_share))
        return {
            'sentences': raw * n.permute_sentences,
            'lengths': infilling.spans_enough(most, n.mean_span) * (most > 0),
            'places': width * (most > 0),
            'masked': raw * (n.token_masking > 0),
            'deleted': raw * (n.token_deletion > 0),
            'rotation': 2 * (n.rotation > 0),
            'random': width * (n.random_share > 0),
        }

    def draws(self, lengths: Mapping[str, int]) -> int:
        return sum(self.sizes(lengths).values())

    def batch(self, rows: packing.Rows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        sizes = self.sizes(lengths)
        parts = np.split(uniforms, np.cumsum(list(sizes.values()))[:-1], axis=1)
        numbers = dict(zip(sizes, parts, strict=True))
        noisy = corrupt(self.noise, rows, lengths['inputs'] - 1, vocabulary, numbers)
        encoder = packing.close(noisy, vocabulary.eos, lengths['inputs'])
        decoder = packing.close(rows, vocabulary.eos, lengths['targets'])
        weights_BxL = (decoder.segments * self.noise.changes).astype(np.float32)
        return packing.seq2seq_batch(encoder, decoder, weights_BxL, vocabulary)


def corrupt(
    settings: Noise, rows: packing.Rows, width: int, vocabulary, numbers: Mapping[str, np.ndarray]
) -> packing.Rows:
    """Rows [B, L] with noise, [B, width]; `numbers` are uniform, [B, n] by kind of noise."""
    ids = shuffling.text_ids(vocabulary)
    kept_BxL = rows.segments > 0
    text_BxL = kept_BxL & ids[rows.tokens]
    tokens_BxL, starts_BxL = _permuted(settings, rows.tokens, text_BxL, vocabulary, numbers)
    inserted_BxL = np.zeros((len(tokens_BxL), tokens_BxL.shape[1] + 1), np.int64)
    if settings.mask_share:
        room_B = width - rows.lengths
        covered_BxL, inserted_BxL = _infilled(settings, starts_BxL, text_BxL, room_B, numbers)
        kept_BxL = kept_BxL & ~covered_BxL
    if settings.token_masking:
        masked_BxL = text_BxL & (numbers['masked'] < settings.token_masking)
        tokens_BxL = np.where(masked_BxL, np.int32(infilling.HOLE), tokens_BxL)
        text_BxL = text_BxL & ~masked_BxL
    if settings.token_deletion:
        kept_BxL = kept_BxL & ~(text_BxL & (numbers['deleted'] < settings.token_deletion))
    noisy = infilling.fill(tokens_BxL, kept_BxL, inserted_BxL, width)
    if settings.rotation:
        noisy = _rotated(settings, noisy, ids, numbers)
    return _masked(settings, noisy, vocabulary, numbers)


def _permuted(settings, tokens_BxL, text_BxL, vocabulary, numbers) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [B, L] with sentences permuted, and where words start then."""
    words = vocabulary.starts_word if settings.whole_words else None
    words = words if words is not None and words.any() else None
    starts_BxL = infilling.word_starts(tokens_BxL, text_BxL, words)
    if not settings.permute_sentences:
        return tokens_BxL, starts_BxL
    begins_BxL = shuffling.sentence_starts(tokens_BxL, marks_of(vocabulary), vocabulary.eos)
    order_BxL = shuffling.shuffle_sentences(begins_BxL, text_BxL, numbers['sentences'])
    starts_BxL |= begins_BxL & text_BxL
    moved = lambda x_BxL: np.take_along_axis(x_BxL, order_BxL, axis=1)
    return moved(tokens_BxL), moved(starts_BxL)


def _infilled(settings, starts_BxL, text_BxL, room_B, numbers) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that spans cover [B, L], and masks before each place [B, L + 1]."""
    words_B = starts_BxL.sum(1)
    budgets_B = infilling.budgets(words_B, settings.mask_share)
    poisson = infilling.poisson(settings.mean_span)
    lengths_BxS = infilling.draw_lengths(poisson, numbers['lengths'])
    spans = infilling.trim(lengths_BxS, budgets_B, budgets_B + room_B)
    words = infilling.place(spans, words_B, starts_BxL.shape[1], numbers['places'])
    return infilling.at_tokens(*words, starts_BxL, text_BxL)


def _rotated(settings, rows: packing.Rows, ids, numbers) -> packing.Rows:
    """Some rows begin at a uniform place; masks and text go round, special tokens stay."""
    turns_B, pivots_B = numbers['rotation'].T
    moved_BxL = (rows.segments > 0) & ((rows.tokens == infilling.HOLE) | ids[rows.tokens])
    order_BxL = shuffling.rotate(moved_BxL, pivots_B * (turns_B < settings.rotation))
    return rows._replace(tokens=np.take_along_axis(rows.tokens, order_BxL, axis=1))


def _masked(settings, rows: packing.Rows, vocabulary, numbers) -> packing.Rows:
    """Masks, or random ordinary tokens, in the holes."""
    holes_BxL = rows.tokens == infilling.HOLE
    if not holes_BxL.any():
        return rows
    tokens_BxL = np.where(holes_BxL, np.int32(vocabulary.mask), rows.tokens)
    if settings.random_share:
        tokens_BxL = noise.replace_chosen(
            tokens_BxL,
            holes_BxL,
            numbers['random'],
            mask=vocabulary.mask,
            ordinary=np.flatnonzero(~vocabulary.special),
            mask_share=1 - settings.random_share,
            random_share=settings.random_share,
        )
    return rows._replace(tokens=tokens_BxL)


def denoising(
    *,
    noise: Noise = Noise(),  # noqa: B008  a frozen value
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    weight: float | Schedule = 1.0,
) -> Objective:
    """BART's denoising on lengths {'inputs': L, 'targets': L}; BART has 1,024 positions.

    `noise` is one of `bart()`, `bart_released()`, `mbart()` or your own. The paper switches dropout
    off for the last 10 % of the steps; that is a matter of the run and is not done here.
    """
    loss = TokenLoss(side='decoder', z_loss=z_loss, label_smoothing=label_smoothing)
    terms = {'denoising': Term(loss=loss, weight=weight)}
    return Objective(converter=Denoising(noise=noise), forward=encode_decode, terms=terms)
