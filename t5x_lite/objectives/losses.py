"""Losses of tokens, classes and numbers: cross-entropy with z-loss and smoothing, squared error."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from t5x_lite.errors import ConfigError, nearest
from t5x_lite.evaluation.classes import accuracy, f1_macro, matthews, pearson, spearman
from t5x_lite.metrics import Mean
from t5x_lite.objectives import vocabulary_loss
from t5x_lite.objectives.similarity import pool_cls

NORMALISATIONS = ('tokens', 'examples', 'constant', 'none')


def cross_entropy(
    logits_BxLxV, targets_BxL, *, z_loss: float = 0.0, label_smoothing: float = 0.0, smoothing='t5x'
):
    """Token losses [B, L], their plain negative log-likelihoods, and whether each is right.

    Losses are in nats, float32. A target is right if no other class scores higher.

    `z_loss` adds z_loss * log(Z)^2 (T5X). Label smoothing e, with V classes: `t5x` gives the wrong
    classes e / (V - 1) and subtracts that target's entropy, so that a perfect match costs 0;
    `uniform` (PyTorch, Hugging Face) spreads e / V over all classes and subtracts nothing.
    """
    logits = logits_BxLxV.astype(jnp.float32)
    vocab = logits.shape[-1]
    log_z_BxL, picked_BxL = _summed_and_picked(logits, targets_BxL)
    nll_BxL = log_z_BxL - picked_BxL
    loss_BxL = nll_BxL
    if label_smoothing:
        total_BxL = vocab * log_z_BxL - logits.sum(-1)  # the sum of all classes' losses
        if smoothing == 't5x':
            low, high = label_smoothing / (vocab - 1), 1.0 - label_smoothing
            entropy = high * jnp.log(high) + (vocab - 1) * low * jnp.log(low + 1e-20)
            loss_BxL = (high - low) * nll_BxL + low * total_BxL + entropy
        else:
            low = label_smoothing / vocab
            loss_BxL = (1.0 - label_smoothing) * nll_BxL + low * total_BxL
    if z_loss:
        loss_BxL = loss_BxL + z_loss * jnp.square(log_z_BxL)
    # The maximum is logsumexp's own: an argmax would cost a pass over the logits.
    return loss_BxL, nll_BxL, picked_BxL >= logits.max(-1)


@jax.custom_vjp
def _summed_and_picked(logits_BxLxV, targets_BxL):
    """log(sum(exp(logits))) and the target's logit, [B, L] each.

    Their gradient is one expression of logits and log(Z), which is written once, in the type that
    the product before it wants; JAX's own adds the targets' part to an array that is there.
    """
    picked_BxLx1 = jnp.take_along_axis(logits_BxLxV, targets_BxL[..., None], axis=-1)
    return jax.nn.logsumexp(logits_BxLxV, axis=-1), picked_BxLx1[..., 0]


def _summed_and_picked_forward(logits_BxLxV, targets_BxL):
    found = _summed_and_picked(logits_BxLxV, targets_BxL)
    return found, (logits_BxLxV, targets_BxL, found[0])


def _summed_and_picked_backward(kept, grads):
    logits_BxLxV, targets_BxL, log_z_BxL = kept
    of_log_z_BxL, of_picked_BxL = grads
    shares_BxLxV = jnp.exp(logits_BxLxV - log_z_BxL[..., None])
    words = jax.lax.broadcasted_iota(targets_BxL.dtype, logits_BxLxV.shape, logits_BxLxV.ndim - 1)
    of_target = jnp.where(words == targets_BxL[..., None], of_picked_BxL[..., None], 0.0)
    return shares_BxLxV * of_log_z_BxL[..., None] + of_target, None


_summed_and_picked.defvjp(_summed_and_picked_forward, _summed_and_picked_backward)


def token_counts(weights_BxL, normalise: str, constant: float = 1.0, segments_BxL=None):
    """What each token's loss counts in the sum, [B, L], and what the sum is divided by.

    Per `tokens` (default), per `examples`, `constant` or `none`. An example is a row, or if
    `segments_BxL` are given each of a row's segments.
    """
    if normalise == 'tokens':
        return weights_BxL, weights_BxL.sum()
    if normalise == 'examples':
        sums_BxS = _by_segment(weights_BxL, segments_BxL)
        own_BxL = (
            sums_BxS if segments_BxL is None else jnp.take_along_axis(sums_BxS, segments_BxL, 1)
        )
        return weights_BxL / jnp.maximum(own_BxL, 1.0), (sums_BxS > 0).astype(jnp.float32).sum()
    return weights_BxL, jnp.float32(constant if normalise == 'constant' else 1.0)


def _by_segment(x_BxL, segments_BxL=None):
    """Sums over each segment of a row, of which there are L at most; over the row if None."""
    if segments_BxL is None:
        return x_BxL.sum(-1, keepdims=True)
    add = lambda x_L, segments_L: jax.ops.segment_sum(x_L, segments_L, x_L.size + 1)
    return jax.vmap(add)(x_BxL, segments_BxL)


@dataclass(frozen=True, kw_only=True)
class TokenLoss:
    """Cross-entropy at every position of one side, weighted by the batch's own loss weights.

    Reads `{side}_hidden`, `{side}_target_tokens`, `{side}_loss_weights`, `{side}_segment_ids`. If
    the batch has `{side}_predicted_positions` [B, P], only those are scored: all that have a
    weight, and 0, which has none, for those left over. Reports `loss`, and the plain `nll` (nats)
    and `accuracy` per scored token. Tokens are scored in chunks if a device had
    to hold more than `limit` scores (None: what suits it).
    """

    side: str = 'decoder'
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    smoothing: str = 't5x'
    normalise: str = 'tokens'
    constant: float = 1.0
    limit: int | None = None

    def __post_init__(self):
        if self.limit is not None and (type(self.limit) is not int or self.limit < 1):
            raise ConfigError(
                f'TokenLoss: limit={self.limit!r} must be an integer of 1 or more, or None for '
                'what suits the device'
            )
        for field, known in (
            ('side', ('encoder', 'decoder')),
            ('smoothing', ('t5x', 'uniform')),
            ('normalise', NORMALISATIONS),
        ):
            value = getattr(self, field)
            if value not in known:
                raise ConfigError(
                    f'TokenLoss: {field}={value!r} is unknown; {nearest(value, known)}'
                )
        check_smoothing('TokenLoss', self.label_smoothing)

    def __call__(self, model, head, outputs, batch) -> dict[str, Mean]:
        hidden_BxLxD, weights_BxL = (
            outputs[f'{self.side}_hidden'],
            batch[f'{self.side}_loss_weights'],
        )
        segments_BxL = batch[f'{self.side}_segment_ids']
        learned_BxL, divisor = token_counts(
            weights_BxL, self.normalise, self.constant, segments_BxL
        )
        scored = (
            hidden_BxLxD,
            batch[f'{self.side}_target_tokens'],
            jnp.stack([learned_BxL, weights_BxL], axis=-1),
        )
        places_BxP = batch.get(f'{self.side}_predicted_positions')
        if places_BxP is not None:
            scored = (jax.vmap(lambda x, places: x[places])(x, places_BxP) for x in scored)
        score = (lambda x: head(x, model)) if head else model.logits
        losses = functools.partial(
            cross_entropy,
            z_loss=self.z_loss,
            label_smoothing=self.label_smoothing,
            smoothing=self.smoothing,
        )
        loss, nll, right = vocabulary_loss.sums(score, losses, *scored, self.limit)
        count = weights_BxL.sum()
        return {
            'loss': Mean(loss, divisor),
            'nll': Mean(nll, count),
            'accuracy': Mean(right, count),
        }


@dataclass(frozen=True, kw_only=True)
class ClassLoss:
    """Cross-entropy of one class for each row, from the head's scores of a pooled vector.

    Reads `{stack}_hidden`, `{name}_labels` and `{name}_weights`, int32 and float32 [B]; a row of
    padding has weight 0. Label smoothing is `uniform`, as in PyTorch. Reports `loss` (nats),
    `accuracy`, and of two classes `positive_share`: how many rows have label 1, so that accuracy
    can be held against always saying the same.
    """

    name: str
    pool: Callable = pool_cls
    stack: str = 'encoder'
    label_smoothing: float = 0.0
    metrics: ClassVar = (accuracy, f1_macro, matthews)

    def __post_init__(self):
        check_stack('ClassLoss', self.stack)
        check_smoothing('ClassLoss', self.label_smoothing)

    def __call__(self, model, head, outputs, batch) -> dict[str, Mean]:
        labels_B, weights_B = batch[f'{self.name}_labels'], batch[f'{self.name}_weights']
        scores_BxC = self.scores(head, outputs, batch)
        smoothing = dict(label_smoothing=self.label_smoothing, smoothing='uniform')
        loss_B, _, right_B = cross_entropy(scores_BxC, labels_B, **smoothing)
        mean = lambda x_B: Mean((x_B * weights_B).sum(), weights_B.sum())
        means = {'loss': mean(loss_B), 'accuracy': mean(right_B)}
        return means | ({'positive_share': mean(labels_B)} if scores_BxC.shape[-1] == 2 else {})

    def scores(self, head, outputs, batch):
        """The head's scores of each row, [B, C]."""
        mask_BxL = batch[f'{self.stack}_segment_ids'] > 0
        return head(self.pool(outputs[f'{self.stack}_hidden'], mask_BxL))

    def predict(self, model, head, outputs, batch) -> dict[str, jax.Array]:
        """The class of the highest score, what is true, and what the row weighs, [B] each.

        Also `probabilities` [B, C].
        """
        scores_BxC = self.scores(head, outputs, batch).astype(jnp.float32)
        return {
            'predictions': jnp.argmax(scores_BxC, axis=-1),
            'targets': batch[f'{self.name}_labels'],
            'weights': batch[f'{self.name}_weights'],
            'probabilities': jax.nn.softmax(scores_BxC),
        }


@dataclass(frozen=True, kw_only=True)
class ValueLoss:
    """Squared error of one number for each row, from the head's only score of a pooled vector.

    Reads `{stack}_hidden`, `{name}_labels` and `{name}_weights`, float32 [B]. Reports `loss`, and
    `absolute_error`.
    """

    name: str
    pool: Callable = pool_cls
    stack: str = 'encoder'
    metrics: ClassVar = (pearson, spearman)

    def __post_init__(self):
        check_stack('ValueLoss', self.stack)

    def __call__(self, model, head, outputs, batch) -> dict[str, Mean]:
        found = self.predict(model, head, outputs, batch)
        weights_B, error_B = found['weights'], found['predictions'] - found['targets']
        mean = lambda x_B: Mean((x_B * weights_B).sum(), weights_B.sum())
        return {'loss': mean(jnp.square(error_B)), 'absolute_error': mean(jnp.abs(error_B))}

    def predict(self, model, head, outputs, batch) -> dict[str, jax.Array]:
        """The row's number, what is true, and what the row weighs, [B] each."""
        mask_BxL = batch[f'{self.stack}_segment_ids'] > 0
        found_B = head(self.pool(outputs[f'{self.stack}_hidden'], mask_BxL))[..., 0]
        labels_B, weights_B = batch[f'{self.name}_labels'], batch[f'{self.name}_weights']
        return {'predictions': found_B, 'targets': labels_B, 'weights': weights_B}


def check_stack(loss: str, stack: str) -> None:
    """ConfigError unless it is one of the two stacks."""
    if stack not in ('encoder', 'decoder'):
        raise ConfigError(
            f'{loss}: stack={stack!r} is unknown; {nearest(stack, ("encoder", "decoder"))}'
        )


def check_smoothing(loss: str, value: float) -> None:
    """ConfigError unless the label smoothing is in [0, 1)."""
    if not 0 <= value < 1:
        raise ConfigError(f'{loss}: label_smoothing={value} must be in [0, 1); try 0.1')
