"""Distillation: a model learns what a teacher says of the same text, live or remembered."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from t5x_lite.errors import ConfigError
from t5x_lite.metrics import Mean
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.heads import ProjectionHead
from t5x_lite.objective import Objective, Schedule, Term
from t5x_lite.objectives.losses import ClassLoss, TokenLoss

TEACHER = 'teacher'


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A model whose weights come from `init` and never change; it runs without dropout.

    `heads` has the head of the term whose scores are learned from, by that term's name, if the
    term has one: `Teacher(model=bert_base(), heads={'mlm': MaskedLMHead()}, init=from_hf(DIR))`.
    """

    model: ModelConfig
    init: Any  # a value of warm_start.py; None draws the weights, for a run that only tries
    heads: Mapping[str, Any] = field(default_factory=dict)
    same_width: bool = False  # the student must be as wide; `distilled` knows

    def build(self, config, rngs):
        from t5x_lite.model.transformer import Model

        return Model(self.model, rngs, self.heads)

    def check(self, student: ModelConfig) -> None:
        """ConfigError unless both models score the same ids and have the same stacks."""
        if self.model.vocab != student.vocab:
            raise ConfigError(
                f'Teacher: model.vocab={self.model.vocab} must be that of the student, '
                f'{student.vocab}; they need one vocabulary'
            )
        if self.same_width and self.model.embed != student.embed:
            raise ConfigError(
                f'Teacher: model.embed={self.model.embed}, but the student has embed='
                f'{student.embed}; set distilled(project=True), or hidden=0 and cosine=0'
            )
        missing = [stack for stack in student.stacks if stack not in self.model.stacks]
        if missing:
            raise ConfigError(
                f'Teacher: the student has a {missing[0]}, but model.{missing[0]}_layers=0; use a '
                'teacher of the same family'
            )


@dataclass(frozen=True)
class WithTeacher:
    """A forward, and the same one through the teacher: its outputs as `teacher/...`."""

    forward: Callable

    @property
    def needs(self) -> tuple[str, ...]:
        return self.forward.needs

    @property
    def needs_dropout(self) -> bool:
        return self.forward.needs_dropout

    def __call__(self, model, batch, key=None):
        taught = self.forward(model.heads[TEACHER], batch, None)
        known = {f'{TEACHER}/{name}': jax.lax.stop_gradient(x) for name, x in taught.items()}
        return {**self.forward(model, batch, key), **known}


@dataclass(frozen=True, kw_only=True)
class LogitsLoss:
    """T^2 * KL(teacher || student) of the scores at temperature T, per scored token, in nats.

    Scores are those of the term named `term`. Source: Hinton et al. 2015.
    """

    stack: str
    term: str
    temperature: float = 2.0

    def __post_init__(self):
        check_temperature(self.temperature)

    def __call__(self, model, head, outputs, batch) -> dict[str, Mean]:
        teacher, hidden = model.heads[TEACHER], f'{self.stack}_hidden'
        ours = scores(model, self.term, outputs[hidden])
        theirs = scores(teacher, self.term, outputs[f'{TEACHER}/{hidden}'])
        theirs, weights_BxL = jax.lax.stop_gradient(theirs), batch[f'{self.stack}_loss_weights']
        loss_BxL = divergence(theirs, ours, self.temperature)
        return {'loss': Mean((loss_BxL * weights_BxL).sum(), weights_BxL.sum())}


@dataclass(frozen=True, kw_only=True)
class ClassLogitsLoss:
    """T^2 * KL(teacher || student) of a row's scores of classes at temperature T, in nats.

    Both models' vectors are pooled as `own` does, the loss of the term named `term`.
    """

    own: ClassLoss
    term: str
    temperature: float = 2.0

    def __post_init__(self):
        check_temperature(self.temperature)

    def __call__(self, model, head, outputs, batch) -> dict[str, Mean]:
        hidden, heads = f'{self.own.stack}_hidden', (model.heads, model.heads[TEACHER].heads)
        seen = outputs, {hidden: outputs[f'{TEACHER}/{hidden}']}
        ours, theirs = (
            self.own.scores(own[self.term], out, batch).astype(jnp.float32)
            for own, out in zip(heads, seen, strict=True)
        )
        loss_B = divergence(jax.lax.stop_gradient(theirs), ours, self.temperature)
        weights_B = batch[f'{self.own.name}_weights']
        return {'loss': Mean((loss_B * weights_B).sum(), weights_B.sum())}


def check_temperature(value: float) -> None:
    if value <= 0:
        raise ConfigError(f'distilled: temperature={value} must be above 0; try 2.0')


def scores(model, term: str, hidden_BxLxD):
    """A model's logits [B, L, V] of a term, by its head if it has one; padding rows left out."""
    head = model.heads[term] if term in model.heads else None
    logits = head(hidden_BxLxD, model) if head else model.logits(hidden_BxLxD)
    return logits[..., : model.config.vocab].astype(jnp.float32)


def divergence(teacher, student, temperature: float):
    """T^2 * KL(teacher || student) of logits [..., V] softened by T, [...]."""
    log_p = jax.nn.log_softmax(teacher / temperature)
    log_q = jax.nn.log_softmax(student / temperature)
    return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


@dataclass(frozen=True, kw_only=True)
class HiddenLoss:
    """How far the last hidden states are from the teacher's, per token that is no padding.

    `cosine`: 1 - cos (Sanh et al. 2019); else the mean square (Romero et al. 2014). A head, if
    there is one, brings the student's states to the teacher's width.
    """

    stack: str
    cosine: bool

    def __call__(self, model, head, outputs, batch) -> dict[str, Mean]:
        ours_BxLxD, theirs_BxLxD = (
            outputs[name].astype(jnp.float32)
            for name in (f'{self.stack}_hidden', f'{TEACHER}/{self.stack}_hidden')
        )
        ours_BxLxD = head(ours_BxLxD).astype(jnp.float32) if head else ours_BxLxD
        if self.cosine:
            length = lambda x: jnp.sqrt(jnp.maximum(jnp.square(x).sum(-1), 1e-24))
            cosines = (ours_BxLxD * theirs_BxLxD).sum(-1) / length(ours_BxLxD)
            loss_BxL = 1.0 - cosines / length(theirs_BxLxD)
        else:
            loss_BxL = jnp.square(ours_BxLxD - theirs_BxLxD).mean(-1)
        real_BxL = (batch[f'{self.stack}_segment_ids'] > 0).astype(jnp.float32)
        return {'loss': Mean((loss_BxL * real_BxL).sum(), real_BxL.sum())}


def distilled(
    *,
    objective: Objective,
    teacher: Teacher,
    temperature: float = 2.0,
    logits: float | Schedule = 0.5,
    hidden: float | Schedule = 0.0,
    cosine: float | Schedule = 0.0,
    project: bool = False,
) -> Objective:
    """The objective with what a teacher says of the same batch as further terms.

    `logits`, `hidden`, `cosine` are the weights of `distill_logits` (of the objective's scores of
    tokens, or of classes), `distill_hidden`, `distill_cosine`; those of weight 0 are left out. The
    objective's own terms keep their weights. Hinton et al. (2015): alpha = 0.5, `clm(weight=0.5)`
    and logits=0.5; DistilBERT (Sanh et al. 2019): `mlm(weight=2.0)`, logits=5.0, cosine=1.0.
    `project` puts a linear layer between hidden states of different widths.

    Raises:
      ConfigError: all three weights are 0; logits of an objective without scores; no teacher's head
        for it; an objective whose forward a teacher cannot follow (a generator, towers, pairs of
        texts).
    """
    stack = _stack(objective)
    terms, head = dict(objective.terms), ProjectionHead(teacher.model.embed) if project else None
    if logits != 0:
        term = _scoring_term(objective, stack, teacher)
        own = objective.terms[term].loss
        loss = LogitsLoss(stack=stack, term=term, temperature=temperature)
        if isinstance(own, ClassLoss):
            loss = ClassLogitsLoss(own=own, term=term, temperature=temperature)
        terms['distill_logits'] = Term(loss=loss, weight=logits)
    for name, weight in (('hidden', hidden), ('cosine', cosine)):
        if weight != 0:
            loss = HiddenLoss(stack=stack, cosine=name == 'cosine')
            terms[f'distill_{name}'] = Term(loss=loss, weight=weight, head=head)
    if len(terms) == len(objective.terms):
        raise ConfigError(
            'distilled: logits=0, hidden=0 and cosine=0 teach nothing; set logits=0.5'
        )
    changes = dict(terms=terms, forward=WithTeacher(objective.forward))
    same_width = not project and not (hidden == 0 and cosine == 0)
    teacher = dataclasses.replace(teacher, same_width=same_width)
    return dataclasses.replace(objective, **changes, teachers={TEACHER: teacher})


def _stack(objective: Objective) -> str:
    """The last stack of a forward that a teacher can run too, on the same batch."""
    inside = [*objective.parts, *objective.teachers]
    if inside:
        raise ConfigError(
            f'distilled: the objective runs through a {inside[0]} of its own, which no teacher '
            'has; distil another objective, such as mlm()'
        )
    stack = objective.forward.needs[-1]
    for name, term in objective.terms.items():
        views = getattr(term.loss, 'views', ())
        if views and f'{stack}_hidden' not in views:
            raise ConfigError(
                f"distilled: term '{name}' compares {', '.join(views)}, where a teacher's "
                f'{stack}_hidden is not known; distil another objective, such as mlm()'
            )
    return stack


def _scoring_term(objective: Objective, stack: str, teacher: Teacher) -> str:
    """The term whose scores, over the vocabulary or of classes, are learned from."""
    for name, term in objective.terms.items():
        side = getattr(term.loss, 'side', None) or getattr(term.loss, 'stack', None)
        if isinstance(term.loss, TokenLoss | ClassLoss) and side == stack:
            if term.head != teacher.heads.get(name):
                raise ConfigError(
                    f"distilled: term '{name}' has the head {term.head}, but the teacher "
                    f'{teacher.heads.get(name)}; give Teacher(heads={{{name!r}: ...}}) the same'
                )
            return name
    raise ConfigError(
        f'distilled: none of the terms {", ".join(objective.terms)} scores tokens or classes; '
        'set logits=0 and hidden or cosine above 0'
    )
