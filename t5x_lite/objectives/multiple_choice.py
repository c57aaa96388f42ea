"""Multiple choice: which of several texts goes with a first one, a score for each."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.data import framing, packing
from t5x_lite.data.finished import Finished
from t5x_lite.errors import ConfigError
from t5x_lite.evaluation.classes import accuracy
from t5x_lite.metrics import Mean
from t5x_lite.model.heads import ClassifierHead
from t5x_lite.objective import Batch, Objective, Outputs, Schedule, Term, encode_side, neighbours
from t5x_lite.objectives.checks import check_ids, check_label, check_lengths
from t5x_lite.objectives.losses import cross_entropy
from t5x_lite.objectives.similarity import pool_cls


def sides(choices: int) -> list[str]:
    """What the arrays of each choice's row begin with."""
    return [f'choice_{i}_encoder' for i in range(choices)]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """An example is a row of each choice: `[CLS] inputs [SEP] choice [SEP]`, lengths {'inputs': L}.

    Features: `inputs`, `choice_0`, `choice_1`, .., and `label`, the number of the right one.
    """

    choices: int
    marks: str = 'cls'
    types: bool = True
    between: int = 1
    longest: ClassVar[int | None] = None

    def __post_init__(self):
        framing.check_marks('multiple_choice', self.marks)
        if type(self.choices) is not int or self.choices < 2:
            raise ConfigError(
                f'multiple_choice: choices={self.choices!r} must be an integer of 2 or more'
            )

    @property
    def features(self) -> tuple[str, ...]:
        return ('label', *(f'choice_{i}' for i in range(self.choices)), 'inputs')

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        least = 2 + framing.marks_of(2, self.marks, self.between)
        check_lengths('multiple_choice', lengths, {'inputs': least}, 'a token of each text, marks')
        if vocabulary is not None:
            check_ids('multiple_choice', vocabulary, *framing.MARKS[self.marks])

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        spec, length = {}, lengths['inputs']
        for side in sides(self.choices):
            spec |= framing.stack_spec(side, length)
            if self.types:
                spec[f'{side}_token_type_ids'] = ((length,), np.int32)
        return spec | {'choice_labels': ((), np.int32), 'choice_weights': ((), np.float32)}

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        length = lengths['inputs']
        return Finished(lambda e: self._rows(e, length, vocabulary), self.spec(lengths))

    def _rows(self, example, length: int, vocabulary) -> Iterator[dict[str, Any]]:
        texts = [example[f'choice_{i}'] for i in range(self.choices)]
        if not all(map(len, texts)):
            return
        label = np.asarray(example['label']).reshape(())
        check_label('multiple_choice', 'label', label, self.choices)
        out = {'choice_labels': label, 'choice_weights': 1.0}
        for side, text in zip(sides(self.choices), texts, strict=True):
            both = [example['inputs'], text]
            row = framing.frame(both, length, vocabulary, self.marks, self.between)
            out |= row.arrays(side)
            if self.types:
                out[f'{side}_token_type_ids'] = row.types
        yield out

    def draws(self, lengths: Mapping[str, int]) -> int:
        return 0

    def batch(self, rows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        return rows


@dataclass(frozen=True, kw_only=True)
class EncodeChoices:
    """A forward: all choices of a row as one batch, `choice_0_encoder_hidden` [B, L, D] and so on.

    A row's choices are next to each other, on the row's device.
    """

    choices: int
    needs: ClassVar[tuple[str, ...]] = ('encoder',)
    needs_dropout: ClassVar[bool] = False

    def __call__(self, model, batch: Batch, key=None) -> Outputs:
        own = sides(self.choices)
        names = {'input_tokens', 'segment_ids', 'positions', 'token_type_ids'}
        folded = {}
        for name in sorted(names):
            if f'{own[0]}_{name}' in batch:
                x_BxCxL = jnp.stack([batch[f'{side}_{name}'] for side in own], axis=1)
                place = name if name == 'token_type_ids' else f'encoder_{name}'
                folded[place] = x_BxCxL.reshape(-1, x_BxCxL.shape[-1])
        hidden = encode_side(model, folded, 'encoder', key)['encoder_hidden']
        views = neighbours(hidden, self.choices)
        return {f'{side}_hidden': x for side, x in zip(own, views, strict=True)}


@dataclass(frozen=True, kw_only=True)
class ChoiceLoss:
    """Cross-entropy of the right choice, from the head's one score of each choice's vector."""

    choices: int
    pool: Callable = pool_cls
    metrics: ClassVar = (accuracy,)

    def _scores(self, head, outputs, batch) -> jax.Array:
        scores = []
        for side in sides(self.choices):
            mask_BxL = batch[f'{side}_segment_ids'] > 0
            scores.append(head(self.pool(outputs[f'{side}_hidden'], mask_BxL))[..., 0])
        return jnp.stack(scores, axis=-1)

    def __call__(self, model, head, outputs, batch) -> dict[str, Mean]:
        weights_B = batch['choice_weights']
        scores_BxC = self._scores(head, outputs, batch)
        loss_B, _, right_B = cross_entropy(scores_BxC, batch['choice_labels'])
        mean = lambda x_B: Mean((x_B * weights_B).sum(), weights_B.sum())
        return {'loss': mean(loss_B), 'accuracy': mean(right_B)}

    def predict(self, model, head, outputs, batch) -> dict[str, jax.Array]:
        """The choice of the highest score, the right one, and what the row weighs, [B] each."""
        found_B = jnp.argmax(self._scores(head, outputs, batch), axis=-1)
        true_B, weights_B = batch['choice_labels'], batch['choice_weights']
        return {'predictions': found_B, 'targets': true_B, 'weights': weights_B}


def multiple_choice(
    *,
    choices: int,
    marks: str = 'cls',
    types: bool = True,
    between: int = 1,
    pool: Callable = pool_cls,
    head: ClassifierHead = ClassifierHead(labels=1),  # noqa: B008  a frozen value
    weight: float | Schedule = 1.0,
) -> Objective:
    """Which of `choices` texts goes with the inputs, on lengths {'inputs': L} (BERT's SWAG)."""
    if head.labels != 1:
        raise ConfigError(f'multiple_choice: head={head} must have labels=1, a score')
    converter = Choices(choices=choices, marks=marks, types=types, between=between)
    term = Term(loss=ChoiceLoss(choices=choices, pool=pool), weight=weight, head=head)
    forward = EncodeChoices(choices=choices)
    return Objective(converter=converter, forward=forward, terms={'choice': term})
