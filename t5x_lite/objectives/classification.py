"""Classification and regression: a label for a text, or for several texts in one row."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from t5x_lite.data import framing, packing
from t5x_lite.data.finished import Finished
from t5x_lite.errors import ConfigError
from t5x_lite.model.heads import ClassifierHead
from t5x_lite.objective import Objective, Schedule, Term, decode, encode
from t5x_lite.objectives.checks import check_ids, check_label, check_lengths
from t5x_lite.objectives.losses import ClassLoss, ValueLoss
from t5x_lite.objectives.similarity import pool_cls

NAME = 'class'  # of the arrays `class_labels` and `class_weights`


@dataclass(frozen=True, kw_only=True)
class LabelledTexts:
    """An example is a row `[CLS] a [SEP] b [SEP]` (`marks='cls'`) or `a EOS b EOS` (`'eos'`).

    What is too long is taken off the longest text; lengths {'inputs': L} is the whole row.
    The feature `label` is a class below `labels`, or any number if `labels` is None.

    Args:
      texts: the features that are its texts, in this order.
      types: `token_type_ids` tell the first text from the others where there are several.
      between: marks between two texts; RoBERTa has two.
      stack: 'encoder' or 'decoder', which reads the row.
    """

    labels: int | None
    texts: tuple[str, ...] = ('inputs',)
    label: str = 'label'
    marks: str = 'cls'
    types: bool = True
    between: int = 1
    stack: str = 'encoder'
    longest: ClassVar[int | None] = None

    def __post_init__(self):
        object.__setattr__(self, 'texts', tuple(self.texts))
        framing.check_marks('classification', self.marks)
        if not self.texts or len({*self.features}) < 1 + len(self.texts):
            raise ConfigError(
                f'classification: texts={self.texts} must be one or more names that differ from '
                f"each other and from label={self.label!r}; try ('inputs',)"
            )
        if self.between not in (1, 2):
            raise ConfigError(f'classification: between={self.between!r} must be 1 or 2; try 1')

    @property
    def features(self) -> tuple[str, ...]:
        return (self.label, *self.texts)  # the last one's vocabulary is the objective's

    @property
    def _typed(self) -> bool:
        return self.types and len(self.texts) > 1 and self.stack == 'encoder'

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        least = len(self.texts) + framing.marks_of(len(self.texts), self.marks, self.between)
        check_lengths('classification', lengths, {'inputs': least}, 'a token of each text, marks')
        if vocabulary is not None:
            check_ids('classification', vocabulary, *framing.MARKS[self.marks])

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        spec = framing.stack_spec(self.stack, lengths['inputs'])
        if self._typed:
            spec['token_type_ids'] = ((lengths['inputs'],), np.int32)
        spec[f'{NAME}_labels'] = ((), np.float32 if self.labels is None else np.int32)
        return spec | {f'{NAME}_weights': ((), np.float32)}

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        length = lengths['inputs']
        return Finished(lambda e: self._rows(e, length, vocabulary), self.spec(lengths))

    def _rows(self, example, length: int, vocabulary) -> Iterator[dict[str, Any]]:
        """The example's row; none if its first text is empty."""
        texts = [example[name] for name in self.texts]
        if not len(texts[0]):
            return
        row = framing.frame(texts, length, vocabulary, self.marks, self.between)
        label = np.asarray(example[self.label]).reshape(())
        if self.labels is not None:
            check_label('classification', self.label, label, self.labels)
        types = {'token_type_ids': row.types} if self._typed else {}
        own = {f'{NAME}_labels': label, f'{NAME}_weights': 1.0}
        yield row.arrays(self.stack) | types | own

    def draws(self, lengths: Mapping[str, int]) -> int:
        return 0

    def batch(self, rows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        return rows


def classification(
    *,
    labels: int,
    texts: tuple[str, ...] = ('inputs',),
    label: str = 'label',
    marks: str = 'cls',
    types: bool = True,
    between: int = 1,
    stack: str = 'encoder',
    pool: Callable = pool_cls,
    label_smoothing: float = 0.0,
    head: ClassifierHead | None = None,
    weight: float | Schedule = 1.0,
) -> Objective:
    """One of `labels` classes for each example, on lengths {'inputs': L}.

    The vector is `pool` of the stack: `pool_cls`, `pool_mean`, or `pool_last` for a decoder. The
    head is ClassifierHead(labels=labels) (BERT's pooler and classifier) if None; GPT-2's and
    Llama's is ClassifierHead(labels=labels, activation=None, bias=False).
    """
    converter = LabelledTexts(
        labels=labels,
        texts=texts,
        label=label,
        marks=marks,
        types=types,
        between=between,
        stack=stack,
    )
    loss = ClassLoss(name=NAME, pool=pool, stack=stack, label_smoothing=label_smoothing)
    return _objective(converter, loss, head or ClassifierHead(labels=labels), weight)


def regression(
    *,
    texts: tuple[str, ...] = ('inputs',),
    label: str = 'label',
    marks: str = 'cls',
    types: bool = True,
    between: int = 1,
    stack: str = 'encoder',
    pool: Callable = pool_cls,
    head: ClassifierHead | None = None,
    weight: float | Schedule = 1.0,
) -> Objective:
    """One number for each example, by squared error, on lengths {'inputs': L}."""
    converter = LabelledTexts(
        labels=None,
        texts=texts,
        label=label,
        marks=marks,
        types=types,
        between=between,
        stack=stack,
    )
    loss = ValueLoss(name=NAME, pool=pool, stack=stack)
    return _objective(converter, loss, head or ClassifierHead(labels=1), weight)


def _objective(converter: LabelledTexts, loss, head: ClassifierHead, weight) -> Objective:
    labels = 1 if converter.labels is None else converter.labels
    if head.labels != labels:
        raise ConfigError(
            f'classification: head={head} must have as many labels as the objective, {labels}'
        )
    term = Term(loss=loss, weight=weight, head=head)
    forward = encode if converter.stack == 'encoder' else decode
    return Objective(converter=converter, forward=forward, terms={'classifier': term})
