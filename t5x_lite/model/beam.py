"""Beam search over any function from tokens to scores."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_lite.model.sampling import HIDDEN, Beam


class Found(NamedTuple):
    """The best hypotheses of each row, best first; after EOS tokens and log-probabilities are 0."""

    tokens_BxKxL: jax.Array
    log_probs_BxKxL: jax.Array
    scores_BxK: jax.Array


class _Search(NamedTuple):
    step: Any
    live: Found  # scores are sums of log-probabilities
    ended: Found  # scores are normalised; HIDDEN where there is none
    logits_BKxV: Any
    carry: Any  # what the model remembers of the live hypotheses, rows of B * K


def search(beam: Beam, length: int, eos: int, logits_BxV, carry, advance: Callable) -> Found:
    """Up to `length` tokens after those that gave the first scores.

    Args:
      logits_BxV: scores of the first token.
      carry: what the model remembers of B * K rows, the K of a prompt next to each other and equal.
      advance: (carry, tokens [B * K], rows [B * K] to take it from) -> (logits [B * K, V], carry).

    Each step keeps the 2K best continuations, so that K live ones are left however many end. The
    search ends when the worst of K ended hypotheses scores no less than the best live one could if
    it went on to `length` for nothing. Live ones, cut off by `length`, come behind all that ended.
    """
    B, K = logits_BxV.shape[0], beam.size
    tokens_BxKxL = jnp.zeros((B, K, length), jnp.int32)
    log_probs_BxKxL = jnp.zeros((B, K, length), jnp.float32)
    first_K = jnp.where(jnp.arange(K) == 0, 0.0, HIDDEN)  # all are equal: one counts
    live = Found(tokens_BxKxL, log_probs_BxKxL, jnp.broadcast_to(first_K, (B, K)))
    ended = Found(tokens_BxKxL, log_probs_BxKxL, jnp.full((B, K), HIDDEN))

    def unsettled(s: _Search):
        reachable_B = beam.normalised(s.live.scores_BxK[:, 0], length)
        return (s.step < length) & jnp.any(s.ended.scores_BxK[:, -1] < reachable_B)

    def turn(s: _Search):
        live, ended, from_BxK = _grown(beam, eos, s)
        rows_BK = (jnp.arange(B)[:, None] * K + from_BxK).reshape(-1)
        last_BK = jax.lax.dynamic_index_in_dim(live.tokens_BxKxL, s.step, 2, False).reshape(-1)
        logits_BKxV, carry = advance(s.carry, last_BK, rows_BK)
        return _Search(s.step + 1, live, ended, logits_BKxV, carry)

    start = _Search(jnp.int32(0), live, ended, jnp.repeat(logits_BxV, K, axis=0), carry)
    end = jax.lax.while_loop(unsettled, turn, start)
    whole = end.live._replace(scores_BxK=beam.normalised(end.live.scores_BxK, length))
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), end.ended, whole)
    # Ended ones are in order, and so are live ones: those that are there, behind each other.
    there_BxC = jnp.where(both.scores_BxK <= HIDDEN / 2, 0, 2 * K - jnp.arange(2 * K)[None])
    index_BxK = jax.lax.top_k(there_BxC, beam.returned)[1]
    return jax.tree.map(lambda x: _taken(x, index_BxK), both)


def _grown(beam: Beam, eos: int, s: _Search) -> tuple[Found, Found, jax.Array]:
    """Live and ended hypotheses one token later, and which each live one comes from [B, K]."""
    B, K, _ = s.live.tokens_BxKxL.shape
    log_probs_BxKxV = jax.nn.log_softmax(s.logits_BKxV.astype(jnp.float32)).reshape(B, K, -1)
    sums_BxKV = (s.live.scores_BxK[..., None] + log_probs_BxKxV).reshape(B, -1)
    vocab = log_probs_BxKxV.shape[-1]
    scores_BxC, index_BxC = jax.lax.top_k(sums_BxKV, min(2 * K, sums_BxKV.shape[1]))
    from_BxC, token_BxC = index_BxC // vocab, index_BxC % vocab
    own_BxC = jnp.take_along_axis(log_probs_BxKxV.reshape(B, -1), index_BxC, axis=1)
    added = Found(
        _taken(s.live.tokens_BxKxL, from_BxC).at[:, :, s.step].set(token_BxC),
        _taken(s.live.log_probs_BxKxL, from_BxC).at[:, :, s.step].set(own_BxC),
        scores_BxC,
    )
    is_end_BxC = token_BxC == eos
    whole_BxC = is_end_BxC & (scores_BxC > HIDDEN / 2)  # not of one that is there for its place
    over = added._replace(
        scores_BxK=jnp.where(whole_BxC, beam.normalised(scores_BxC, s.step + 1.0), HIDDEN)
    )
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), s.ended, over)
    ended, _ = _best(both, K)
    on = added._replace(scores_BxK=jnp.where(is_end_BxC, HIDDEN, scores_BxC))
    live, chosen_BxK = _best(on, K)
    return live, ended, jnp.take_along_axis(from_BxC, chosen_BxK, axis=1)


def _best(found: Found, count: int) -> tuple[Found, jax.Array]:
    _, index_BxK = jax.lax.top_k(found.scores_BxK, count)
    return jax.tree.map(lambda x: _taken(x, index_BxK), found), index_BxK


def _taken(x, index_BxK):
    """Hypotheses of each row, x [B, C] or [B, C, L], by their numbers."""
    index = index_BxK.reshape(*index_BxK.shape, *[1] * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1)
