"""Decoding on the key-value cache: prompts in one pass, then a token at a time, by any choice."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.errors import ConfigError
from t5x_lite.model import beam
from t5x_lite.model.sampling import GREEDY, Beam, Sampling


class Decoded(NamedTuple):
    """S continuations of each prompt; tokens and log-probabilities are 0 after the end.

    `log_probs` are the model's, whatever the temperature. `scores` are their sums, or a beam's
    normalised ones, best first.
    """

    tokens_BxSxL: jax.Array
    log_probs_BxSxL: jax.Array
    scores_BxS: jax.Array


class _Rows(NamedTuple):
    """What the model remembers of rows: its cache, and where their next tokens stand."""

    cache: Any
    position_B: jax.Array

    def take(self, index_B):
        return _Rows(self.cache.take(index_B), self.position_B[index_B])


def left_aligned(prompts: Sequence[np.ndarray], size: int | None = None):
    """Prompts of different lengths that end together: tokens and segments, int32 [B, size]."""
    size = max(map(len, prompts)) if size is None else size
    tokens_BxP = np.zeros((len(prompts), size), np.int32)
    segments_BxP = np.zeros_like(tokens_BxP)
    for row, prompt in enumerate(prompts):
        if not 0 < len(prompt) <= size:
            raise ConfigError(
                f'prompt {row}: has {len(prompt)} tokens; give it 1 to {size}, or enlarge the size'
            )
        tokens_BxP[row, size - len(prompt) :] = prompt
        segments_BxP[row, size - len(prompt) :] = 1
    return tokens_BxP, segments_BxP


def generate(
    model,
    prompt_BxP,
    length: int,
    how: Sampling | Beam = GREEDY,
    *,
    eos: int | None,
    segments=None,
    prefix: bool = False,
    memory=None,
    memory_segments=None,
    stops: Sequence[Sequence[int]] = (),
    key=None,
    rows=None,
) -> Decoded:
    """Up to `length` tokens after each prompt.

    Args:
      prompt_BxP: ids; shorter ones are aligned to the right, with 0 in `segments` in front
        (`left_aligned`). What is generated does not depend on the other rows.
      eos: ends a row and stays in it; None if nothing does. Beam search needs it.
      prefix: the tokens of a prompt see each other both ways (prefix LM).
      memory: encoder's hidden states [B, M, D], and their `memory_segments`.
      stops: ids in sequence that end a row too; not in beam search.
      key: for sampling; each of `rows`, numbers [B] (0, 1, .. if None), draws with its own of it.
    """
    if prefix and model.prompt is not None:
        raise ConfigError(
            'generate: a learned prompt was trained to see the prefix behind it, which a cache '
            'cannot; score whole rows instead'
        )
    if isinstance(how, Beam) and (eos is None or stops):
        fix = 'stops are not known to it' if stops else 'the vocabulary has no EOS to end with'
        raise ConfigError(f'generate: {how}: {fix}; use Sampling')
    if key is None and isinstance(how, Sampling) and not how.is_greedy:
        raise ConfigError(f'generate: {how} draws; give it a key')
    segments = jnp.ones_like(prompt_BxP) if segments is None else jnp.asarray(segments)
    B, P = prompt_BxP.shape
    cache = model.start_cache(B, P + length, memory, memory_segments)
    first = cache.length  # what a learned prompt takes
    position_BxP = first + jnp.maximum(jnp.cumsum(segments, axis=1) - 1, 0)
    marks = dict(segments=segments, positions=position_BxP, prefix=segments if prefix else None)
    hidden_BxPxD, cache = model.decode(prompt_BxP, **marks, cache=cache)
    logits_BxV = model.logits(hidden_BxPxD[:, -1:])[:, 0]
    start = _Rows(cache, first + segments.sum(axis=1))
    if isinstance(how, Beam):
        return _beam(model, length, how, eos, logits_BxV, start)
    keys_B = _keys(key, jnp.arange(B) if rows is None else rows, how.samples)
    repeated_BS = jnp.repeat(jnp.arange(B), how.samples)
    start = start if how.samples == 1 else start.take(repeated_BS)
    args = logits_BxV[repeated_BS], start, keys_B
    tokens_BSxL, log_probs_BSxL = _sampled(model, length, how, eos, stops, *args)
    apart = lambda x: x.reshape(B, how.samples, length)
    log_probs_BxSxL = apart(log_probs_BSxL)
    return Decoded(apart(tokens_BSxL), log_probs_BxSxL, log_probs_BxSxL.sum(axis=-1))


def _keys(key, row_B, samples: int):
    """A key for each row and sample [B * S]."""
    key = jax.random.key(0) if key is None else key
    own = lambda row, sample: jax.random.fold_in(jax.random.fold_in(key, row), sample)
    each = jax.vmap(jax.vmap(own, (None, 0)), (0, None))
    return each(jnp.asarray(row_B), jnp.arange(samples)).reshape(-1)


def _advance(model, rows: _Rows, token_B):
    """Scores of what follows these tokens [B, V], and the rows with them."""
    hidden_Bx1xD, cache = model.decode(
        token_B[:, None], positions=rows.position_B[:, None], cache=rows.cache
    )
    return model.logits(hidden_Bx1xD)[:, 0], _Rows(cache, rows.position_B + 1)


def _sampled(model, length, how: Sampling, eos, stops, logits_BxV, rows: _Rows, keys_B):
    """Tokens and their log-probabilities [B, length], until all rows have ended."""
    tokens_BxL = jnp.zeros((logits_BxV.shape[0], length), jnp.int32)

    def some_go_on(carry):
        step, ended_B = carry[:2]
        return (step < length) & ~jnp.all(ended_B)

    def turn(carry):
        step, ended_B, tokens_BxL, log_probs_BxL, logits_BxV, rows = carry
        key_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, step)
        token_B = how.choose(logits_BxV, key_B).astype(jnp.int32)
        token_B = jnp.where(ended_B, 0, token_B)
        own_B = jnp.take_along_axis(jax.nn.log_softmax(logits_BxV), token_B[:, None], axis=1)[:, 0]
        tokens_BxL = tokens_BxL.at[:, step].set(token_B)
        log_probs_BxL = log_probs_BxL.at[:, step].set(jnp.where(ended_B, 0.0, own_B))
        ended_B |= (token_B == (-1 if eos is None else eos)) | _stopped(tokens_BxL, step, stops)
        logits_BxV, rows = _advance(model, rows, token_B)
        return step + 1, ended_B, tokens_BxL, log_probs_BxL, logits_BxV, rows

    ended_B = jnp.zeros(len(tokens_BxL), bool)
    start = jnp.int32(0), ended_B, tokens_BxL, tokens_BxL.astype(jnp.float32), logits_BxV, rows
    end = jax.lax.while_loop(some_go_on, turn, start)
    return end[2], end[3]


def _stopped(tokens_BxL, step, stops):
    """Which rows end at `step` with one of the sequences."""
    found_B = jnp.zeros(len(tokens_BxL), bool)
    for stop in stops:
        if len(stop) <= tokens_BxL.shape[1]:
            start = jnp.maximum(step + 1 - len(stop), 0)
            last_BxK = jax.lax.dynamic_slice_in_dim(tokens_BxL, start, len(stop), axis=1)
            equal_B = jnp.all(last_BxK == jnp.asarray(stop)[None], axis=1)
            found_B |= equal_B & (step + 1 >= len(stop))
    return found_B


def _beam(model, length, how: Beam, eos, logits_BxV, start: _Rows) -> Decoded:
    def advance(rows, token_B, from_B):
        return _advance(model, rows.take(from_B), token_B)

    start = start.take(jnp.repeat(jnp.arange(len(logits_BxV)), how.size))
    return Decoded(*beam.search(how, length, eos, logits_BxV, start, advance))
