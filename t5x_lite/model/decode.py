"""Decoding on the key-value cache: greedy."""
# SPDX-License-Identifier: Apache-2.0

import jax
import jax.numpy as jnp


def greedy(model, prompt_BxP, length: int, *, eos: int | None, memory=None, memory_segments=None):
    """The most likely next tokens, one at a time: [B, length]; after EOS only 0 (pad).

    All prompts have the same number of tokens; position 0 is the decoder's BOS.
    """
    size = prompt_BxP.shape[1] + length
    cache = model.start_cache(prompt_BxP.shape[0], size, memory, memory_segments)
    hidden_BxPxD, cache = model.decode(prompt_BxP, cache=cache)
    first_B = jnp.argmax(model.logits(hidden_BxPxD[:, -1:]), axis=-1)[:, 0]

    def step(carry, _):
        cache, token_B, ended_B = carry
        token_B = jnp.where(ended_B, 0, token_B)
        ended_B = ended_B | (token_B == (-1 if eos is None else eos))
        hidden_Bx1xD, cache = model.decode(token_B[:, None], cache=cache)
        following_B = jnp.argmax(model.logits(hidden_Bx1xD), axis=-1)[:, 0]
        return (cache, following_B, ended_B), token_B

    start = (cache, first_B, jnp.zeros_like(first_B, bool))
    _, tokens_LxB = jax.lax.scan(step, start, None, length=length)
    return tokens_LxB.T
