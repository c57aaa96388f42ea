"""Sentence pairs: next sentence (BERT) or sentence order (ALBERT), alone or with masked LM."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from t5x_lite.data import packing, sentence_pairs, sentences
from t5x_lite.data.masking import Ngrams
from t5x_lite.errors import ConfigError
from t5x_lite.model.heads import ClassifierHead, MaskedLMHead
from t5x_lite.objective import Objective, Schedule, Term, encode
from t5x_lite.objectives.checks import check_ids, check_lengths, check_share
from t5x_lite.objectives.losses import ClassLoss, TokenLoss
from t5x_lite.objectives.mlm import MaskedLM


@dataclass(frozen=True, kw_only=True)
class _SentencePairs:
    """Rows `[CLS] A [SEP] B [SEP]` with a label each, and with masks if `masking`.

    `token_type_ids` tell A from B. `short_share` of the chunks are shorter than a row. The labels
    are `{kind}_labels` [B], each row's weight in the loss `{kind}_weights` [B].
    """

    short_share: float = 0.1
    masking: MaskedLM | None = None
    kind: ClassVar[str]
    features: ClassVar[tuple[str, ...]] = ('targets',)
    longest: ClassVar[int | None] = None

    def __post_init__(self):
        check_share(self.kind, 'short_share', self.short_share, default=0.1)
        if self.masking and self.masking.choose.features:
            raise ConfigError(
                f'{self.kind}: masking={self.masking.choose} reads annotations, which sentences '
                'lose when they are paired; try masking.WholeWords(), or mlm() as another stream'
            )

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        least = {'targets': 2 + sentence_pairs.SPECIAL}
        check_lengths(self.kind, lengths, least, '[CLS], a token, [SEP], a token, [SEP]')
        if vocabulary is None:
            return
        check_ids(self.kind, vocabulary, 'cls', 'sep', *(['mask'] if self.masking else []))
        marks = sentences.marks(vocabulary)
        if not (marks.final.any() or marks.newline.any()):
            raise ConfigError(
                f'{self.kind}: no piece of the vocabulary of {vocabulary.size} ids ends a sentence '
                '(. ! ? or a newline), so that no document could be cut in two; use a vocabulary '
                'that has one, such as t5x_lite.data.vocabularies.bundled()'
            )

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        shape = (lengths['targets'],)
        tokens = self.masking.spec(lengths) if self.masking else {}
        return tokens | {
            'encoder_input_tokens': (shape, np.int32),
            'encoder_segment_ids': (shape, np.int32),
            'encoder_positions': (shape, np.int32),
            'token_type_ids': (shape, np.int32),
            f'{self.kind}_labels': ((), np.int32),
            f'{self.kind}_weights': ((), np.float32),
        }

    def draws(self, lengths: Mapping[str, int]) -> int:
        return self.masking.draws(lengths) if self.masking else 0

    def batch(self, pairs: sentence_pairs.Pairs, lengths, vocabulary, uniforms):
        rows = packing.Rows(pairs.tokens, *packing.extents(pairs.lengths, lengths['targets']))
        plain = {
            'encoder_input_tokens': rows.tokens,
            'encoder_segment_ids': rows.segments,
            'encoder_positions': rows.positions,
        }
        masked = self.masking.corrupt(rows, vocabulary, uniforms) if self.masking else {}
        return (
            plain
            | masked
            | {
                'token_type_ids': pairs.types,
                f'{self.kind}_labels': pairs.labels,
                f'{self.kind}_weights': np.ones(len(pairs.labels), np.float32),
            }
        )


@dataclass(frozen=True, kw_only=True)
class NextSentence(_SentencePairs):
    """B follows A (label 0) or is of another of the last `documents` documents (label 1).

    Source: Devlin et al. 2018.
    """

    documents: int = 100
    kind: ClassVar[str] = 'nsp'

    def __post_init__(self):
        super().__post_init__()
        if type(self.documents) is not int or self.documents < 2:
            raise ConfigError(
                f'nsp: documents={self.documents!r} must be an integer of 2 or more, the text and '
                'another to take random sentences from; try 100'
            )

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        return sentence_pairs.NextSentence(
            lengths['targets'],
            vocabulary,
            seed,
            documents=self.documents,
            short_share=self.short_share,
        )


@dataclass(frozen=True, kw_only=True)
class SentenceOrder(_SentencePairs):
    """A and B follow each other (label 0) or are swapped (label 1). Source: Lan et al. 2019."""

    kind: ClassVar[str] = 'sop'

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        return sentence_pairs.SentenceOrder(
            lengths['targets'], vocabulary, seed, short_share=self.short_share
        )


def pair_term(kind: str, weight: float | Schedule) -> Term:
    """Two classes from tanh(dense(h_CLS)); BERT's pooler and its next-sentence layer."""
    return Term(loss=ClassLoss(name=kind), weight=weight, head=ClassifierHead(labels=2))


def with_mlm(converter, mlm_weight: float | Schedule, weight: float | Schedule) -> Objective:
    """Masked LM and the pairs' labels as two terms of one forward."""
    mlm = Term(loss=TokenLoss(side='encoder'), weight=mlm_weight, head=MaskedLMHead())
    terms = {'mlm': mlm, converter.kind: pair_term(converter.kind, weight)}
    return Objective(converter=converter, forward=encode, terms=terms)


def nsp(
    *, documents: int = 100, short_share: float = 0.1, weight: float | Schedule = 1.0
) -> Objective:
    """Next-sentence prediction on lengths {'targets': L}; needs model.types=2."""
    converter = NextSentence(documents=documents, short_share=short_share)
    return Objective(converter=converter, forward=encode, terms={'nsp': pair_term('nsp', weight)})


def sop(*, short_share: float = 0.1, weight: float | Schedule = 1.0) -> Objective:
    """Sentence-order prediction on lengths {'targets': L}; needs model.types=2."""
    converter = SentenceOrder(short_share=short_share)
    return Objective(converter=converter, forward=encode, terms={'sop': pair_term('sop', weight)})


def bert(
    *,
    masking: MaskedLM = MaskedLM(),  # noqa: B008  a frozen value
    documents: int = 100,
    short_share: float = 0.1,
    mlm_weight: float | Schedule = 1.0,
    nsp_weight: float | Schedule = 1.0,
) -> Objective:
    """BERT's pre-training, masked LM and next sentence 1:1; needs model.types=2.

    BERT masks with MaskedLM(max_predictions=20) at L = 128, 76 at 512. Source: Devlin et al. 2018.
    """
    converter = NextSentence(masking=masking, documents=documents, short_share=short_share)
    return with_mlm(converter, mlm_weight, nsp_weight)


def albert(
    *,
    masking: MaskedLM = MaskedLM(choose=Ngrams()),  # noqa: B008  a frozen value
    short_share: float = 0.1,
    mlm_weight: float | Schedule = 1.0,
    sop_weight: float | Schedule = 1.0,
) -> Objective:
    """ALBERT's pre-training, masked LM and sentence order 1:1; needs model.types=2.

    It masks n-grams of up to three words. Source: Lan et al. 2019.
    """
    converter = SentenceOrder(masking=masking, short_share=short_share)
    return with_mlm(converter, mlm_weight, sop_weight)
