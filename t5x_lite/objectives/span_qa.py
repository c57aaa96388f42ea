"""Extractive question answering: where in a text an answer begins and ends (SQuAD)."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from t5x_lite.data import framing, packing
from t5x_lite.data.finished import Finished
from t5x_lite.errors import ConfigError
from t5x_lite.model.heads import ClassifierHead
from t5x_lite.objective import Objective, Schedule, Term, encode
from t5x_lite.objectives.checks import check_ids, check_lengths
from t5x_lite.objectives.span_loss import SpanLoss


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Rows `[CLS] question [SEP] part of the context [SEP]`, the parts `stride` tokens apart.

    Features: `answers`, int32 [2k], the k answers' first token in the context and the one after
    their last, one answer after the other (k = 0: there is none); `question`; `context`. A question
    is cut to `question_length`. Training takes the first answer: rows that hold all of it have as
    `span_begins` and `span_ends` the places of its first and last token, and weight 1. Other rows
    point to the first token and have weight 0, but 1 if `unanswerable`, as SQuAD 2 has it.

    For scores a row also has `window_first` (1 in a question's first row), `window_begins` (where
    in the row the context begins), `window_offsets` (its place in the whole context), and
    `window_answers` [answers, 2], -1 where there are fewer.

    Source: Devlin et al. 2018, google-research/bert:run_squad.py.
    """

    stride: int = 128
    question_length: int = 64
    answers: int = 6
    unanswerable: bool = False
    marks: str = 'cls'
    types: bool = True
    between: int = 1
    features: ClassVar[tuple[str, ...]] = ('answers', 'question', 'context')
    longest: ClassVar[int | None] = None

    def __post_init__(self):
        framing.check_marks('span_qa', self.marks)
        for name in ('stride', 'question_length', 'answers'):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f'span_qa: {name}={value!r} must be an integer of 1 or more')
        if self.marks != 'cls' and self.unanswerable:
            raise ConfigError(
                f'span_qa: unanswerable=True points to [CLS], which marks={self.marks!r} does not '
                "write; use marks='cls'"
            )

    @property
    def _framing(self) -> int:
        return self.question_length + framing.marks_of(2, self.marks, self.between)

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        least = {'inputs': self._framing + self.stride}
        why = f'question_length={self.question_length}, the marks, and stride={self.stride}'
        check_lengths('span_qa', lengths, least, why)
        if vocabulary is not None:
            check_ids('span_qa', vocabulary, *framing.MARKS[self.marks])

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        spec = framing.stack_spec('encoder', lengths['inputs'])
        if self.types:
            spec['token_type_ids'] = ((lengths['inputs'],), np.int32)
        numbers = ('span_begins', 'span_ends', 'window_first', 'window_begins', 'window_offsets')
        spec |= {name: ((), np.int32) for name in numbers}
        spec['window_answers'] = ((self.answers, 2), np.int32)
        return spec | {'span_weights': ((), np.float32)}

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        length = lengths['inputs']
        return Finished(lambda e: self._rows(e, length, vocabulary), self.spec(lengths))

    def _rows(self, example, length: int, vocabulary) -> Iterator[dict[str, Any]]:
        """The rows of a question; none if it or its context is empty."""
        question, context = example['question'][: self.question_length], example['context']
        if not (len(question) and len(context)):
            return
        answers = self._answers(example['answers'], len(context))
        room = length - len(question) - framing.marks_of(2, self.marks, self.between)
        known = np.full((self.answers, 2), -1, np.int32)
        known[: len(answers)] = answers[: self.answers]
        for offset in _offsets(len(context), room, self.stride):
            part = context[offset : offset + room]
            row = framing.frame([question, part], length, vocabulary, self.marks, self.between)
            begin, end, weight = self._span(answers, offset, len(part), row.begins[1])
            types = {'token_type_ids': row.types} if self.types else {}
            own = {
                'span_begins': begin,
                'span_ends': end,
                'span_weights': weight,
                'window_first': offset == 0,
                'window_begins': row.begins[1],
                'window_offsets': offset,
                'window_answers': known,
            }
            yield row.arrays('encoder') | types | own

    def _answers(self, answers, tokens: int) -> np.ndarray:
        spans_Kx2 = np.asarray(answers, np.int32).reshape(-1, 2)
        wrong = (spans_Kx2[:, 0] < 0) | (spans_Kx2[:, 1] <= spans_Kx2[:, 0])
        wrong |= spans_Kx2[:, 1] > tokens
        if wrong.any():
            raise ConfigError(
                f'span_qa: an answer is at tokens {spans_Kx2[wrong][0].tolist()} of a context of '
                f'{tokens}; it must be its first token and the one after its last; mend the task'
            )
        return spans_Kx2

    def _span(self, answers_Kx2, offset: int, size: int, begins: int) -> tuple[int, int, float]:
        """Where the first answer begins and ends in the row, and what the row weighs."""
        if len(answers_Kx2):
            first, after = answers_Kx2[0] - offset
            if first >= 0 and after <= size:
                return begins + int(first), begins + int(after) - 1, 1.0
        return 0, 0, float(self.unanswerable)

    def draws(self, lengths: Mapping[str, int]) -> int:
        return 0

    def batch(self, rows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        return rows


def _offsets(tokens: int, room: int, stride: int) -> range:
    """Where windows of `room` tokens begin; the last one ends with the text."""
    return range(0, max(tokens - room, 0) + stride, stride) if tokens > room else range(1)


def span_qa(
    *,
    stride: int = 128,
    question_length: int = 64,
    answers: int = 6,
    longest_answer: int = 30,
    unanswerable: bool = False,
    marks: str = 'cls',
    types: bool = True,
    between: int = 1,
    head: ClassifierHead | None = None,
    weight: float | Schedule = 1.0,
) -> Objective:
    """Begin and end of an answer in its context, on lengths {'inputs': L}.

    A predicted answer has up to `longest_answer` tokens. The head is ClassifierHead(labels=2,
    activation=None) if None, as in published models.
    """
    converter = Windows(
        stride=stride,
        question_length=question_length,
        answers=answers,
        unanswerable=unanswerable,
        marks=marks,
        types=types,
        between=between,
    )
    head = head or ClassifierHead(labels=2, activation=None)
    if head.labels != 2:
        raise ConfigError(f'span_qa: head={head} must have labels=2, begin and end')
    loss = SpanLoss(longest_answer=longest_answer, unanswerable=unanswerable)
    terms = {'span': Term(loss=loss, weight=weight, head=head)}
    return Objective(converter=converter, forward=encode, terms=terms)
