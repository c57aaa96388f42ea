"""Distillation without the teacher: causal LM on documents whose scores by it are in the data."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.data import packing
from t5x_lite.errors import ConfigError
from t5x_lite.metrics import Mean
from t5x_lite.objective import Objective, Schedule, Term, decode
from t5x_lite.objectives.causal_lm import CausalLM
from t5x_lite.objectives.distillation import scores
from t5x_lite.objectives.losses import TokenLoss


class RememberedRows(NamedTuple):
    """Rows of documents, and the teacher's best ids and their logits for each target [B, L, k]."""

    rows: packing.Rows
    ids: np.ndarray
    logits: np.ndarray


class Remembered(packing.Documents):
    """Documents with EOS, one or a piece of one per row, and what was remembered of each token."""

    def __init__(self, length: int, eos: int, top: int):
        super().__init__(length, eos)
        self._top = top
        self._ids, self._logits = packing.Line(np.int32), packing.Line(np.float32)

    def add(self, example: Mapping[str, np.ndarray]) -> None:
        if not len(example['targets']):
            return super().add(example)
        shape = (len(example['targets']) + 1, self._top)
        for name in ('teacher_ids', 'teacher_logits'):
            if example[name].shape != shape:
                raise ConfigError(
                    f'remembered_teacher: {name} of an example has shape {example[name].shape}, '
                    f'but {shape[0] - 1} targets and EOS with top={self._top} need {shape}'
                )
        super().add(example)
        self._ids.put(example['teacher_ids'].ravel())
        self._logits.put(example['teacher_logits'].ravel())

    def take(self, count: int) -> RememberedRows:
        rows = super().take(count)
        shape, used = (*rows.tokens.shape, self._top), rows.segments > 0
        ids, logits = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        size = int(used.sum()) * self._top
        ids[used] = self._ids.take(size).reshape(-1, self._top)
        logits[used] = self._logits.take(size).reshape(-1, self._top)
        return RememberedRows(rows, ids, logits)

    def state(self) -> dict[str, np.ndarray]:
        own = {'ids': self._ids.joined().copy(), 'logits': self._logits.joined().copy()}
        return {**super().state(), **own}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        super().restore(state)
        self._ids, self._logits = packing.Line(np.int32), packing.Line(np.float32)
        self._ids.put(state['ids'])
        self._logits.put(state['logits'])


@dataclass(frozen=True, kw_only=True)
class RememberedLM:
    """Causal LM's rows of one document each, with `decoder_teacher_ids` and `_logits` [L, top]."""

    top: int
    plain: ClassVar[CausalLM] = CausalLM(join=False)
    features: ClassVar[tuple[str, ...]] = ('teacher_ids', 'teacher_logits', 'targets')
    longest: ClassVar[int | None] = None

    def __post_init__(self):
        if type(self.top) is not int or self.top < 1:
            raise ConfigError(
                f'remembered_teacher: top={self.top!r} must be an integer of 1 or more; try 32'
            )

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        self.plain.check(lengths, vocabulary)

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        shape = (lengths['targets'], self.top)
        known = {'ids': (shape, np.int32), 'logits': (shape, np.float32)}
        return self.plain.spec(lengths) | {f'decoder_teacher_{n}': s for n, s in known.items()}

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> Remembered:
        return Remembered(lengths['targets'], vocabulary.eos, self.top)

    def draws(self, lengths: Mapping[str, int]) -> int:
        return 0

    def batch(self, rows: RememberedRows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        return {
            **self.plain.batch(rows.rows, lengths, vocabulary, uniforms),
            'decoder_teacher_ids': rows.ids,
            'decoder_teacher_logits': rows.logits,
        }


@dataclass(frozen=True, kw_only=True)
class RememberedLoss:
    """T^2 * KL(teacher || student) over the ids remembered of each token, in nats.

    The teacher's probabilities are the softmax of the logits that are there: with all ids of the
    vocabulary it is the loss of a live teacher. Source: Hinton et al. 2015.
    """

    stack: str = 'decoder'
    temperature: float = 2.0

    def __call__(self, model, head, outputs, batch) -> dict[str, Mean]:
        ours = scores(model, '', outputs[f'{self.stack}_hidden']) / self.temperature
        ids_BxLxk = batch[f'{self.stack}_teacher_ids']
        log_p = jax.nn.log_softmax(batch[f'{self.stack}_teacher_logits'] / self.temperature)
        log_q = jnp.take_along_axis(jax.nn.log_softmax(ours), ids_BxLxk, axis=-1)
        loss_BxL = self.temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(-1)
        weights_BxL = batch[f'{self.stack}_loss_weights']
        return {'loss': Mean((loss_BxL * weights_BxL).sum(), weights_BxL.sum())}


def remembered_teacher(
    *,
    top: int,
    temperature: float = 2.0,
    logits: float | Schedule = 0.5,
    weight: float | Schedule = 0.5,
) -> Objective:
    """Causal LM and distillation from the `top` logits that each example holds.

    Examples: `targets` [n], `teacher_ids` and `teacher_logits` [n + 1, top], the teacher's scores
    of each target given those before it, and of EOS. On lengths {'targets': L}.
    """
    terms = {
        'causal_lm': Term(loss=TokenLoss(side='decoder'), weight=weight),
        'distill_logits': Term(loss=RememberedLoss(temperature=temperature), weight=logits),
    }
    return Objective(converter=RememberedLM(top=top), forward=decode, terms=terms)
