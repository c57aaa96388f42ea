"""GPT-2, BERT and T5 1.1 written by hand in jax.numpy: losses for `benchmarks.plain_step`."""
# SPDX-License-Identifier: Apache-2.0
# Weights are nested dicts, those of the layers a list of dicts. Rows R = B * L are one dimension in
# all products but those of attention, and layers are unrolled. A loss returns (sum of token losses
# / sum of their weights, sum of right tokens).

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MOST_SCORES = 2**23  # scores of the vocabulary at once


class Sizes(NamedTuple):
    """What the shapes of the weights do not tell."""

    heads: int
    eps: float  # of the norms
    buckets: int = 0  # of T5's relative bias, and the distance at which they end
    max_distance: int = 0


def linear(x_RxI, p):
    y_RxO = x_RxI @ p['kernel']
    return y_RxO + p['bias'][None] if 'bias' in p else y_RxO


def layer_norm(x, p, eps: float):
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps)
    return x * p['scale'][None] + p['bias'][None]


def rms_norm(x, p, eps: float):
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps) * p['scale'][None]


def gelu(x):
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


def gelu_tanh(x):
    return 0.5 * x * (1.0 + jnp.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)))


def attention(x_RxD, memory_RxD, p, mask_BxLxM, heads: int, scale: float, bias_HxLxM=None):
    """Multi-head attention of rows [B * L, D] to rows [B * M, D]."""
    batch = mask_BxLxM.shape[0]

    def split(x_RxP):
        return x_RxP.reshape(batch, -1, heads, x_RxP.shape[-1] // heads).swapaxes(1, 2)

    q_BxHxLxK = split(linear(x_RxD, p['query']))
    k_BxHxMxK, v_BxHxMxK = (split(linear(memory_RxD, p[name])) for name in ('key', 'value'))
    scores = jnp.einsum('BHLK,BHMK->BHLM', q_BxHxLxK, k_BxHxMxK) * scale
    scores = scores if bias_HxLxM is None else scores + bias_HxLxM[None]
    shares = jax.nn.softmax(jnp.where(mask_BxLxM[:, None], scores, -1e30))
    y_BxHxLxK = jnp.einsum('BHLM,BHMK->BHLK', shares, v_BxHxMxK)
    return linear(y_BxHxLxK.swapaxes(1, 2).reshape(x_RxD.shape[0], -1), p['out'])


def same_segment(query_BxL, key_BxM):
    return (query_BxL[:, :, None] == key_BxM[:, None, :]) & (key_BxM > 0)[:, None, :]


def and_causal(mask_BxLxL):
    return mask_BxLxL & jnp.tril(jnp.ones(mask_BxLxL.shape[1:], bool))[None]


def token_losses(hidden_RxD, table_VxD, bias_V, targets_R, weights_R):
    """Weighted sums of the tokens' losses and of how many are right, in chunks if V is large.

    A chunk's gradients are made with its loss, so that its scores are computed once.
    """
    rows, vocab = hidden_RxD.shape[0], table_VxD.shape[0]
    chunks = -(-rows * vocab // MOST_SCORES)
    if chunks == 1:
        return _whole(hidden_RxD, table_VxD, bias_V, targets_R, weights_R)
    size = -(-rows // chunks)
    cut = lambda x: jnp.pad(x, ((0, size * chunks - rows),) + ((0, 0),) * (x.ndim - 1))
    chunked = [cut(x).reshape(chunks, size, *x.shape[1:]) for x in (targets_R, weights_R)]
    return _chunked(cut(hidden_RxD).reshape(chunks, size, -1), table_VxD, bias_V, *chunked)


def _scores(hidden_RxD, table_VxD, bias_V):
    scores_RxV = jnp.einsum('RD,VD->RV', hidden_RxD, table_VxD)
    return scores_RxV if bias_V is None else scores_RxV + bias_V[None]


def _whole(hidden_RxD, table_VxD, bias_V, targets_R, weights_R):
    scores_RxV = _scores(hidden_RxD, table_VxD, bias_V)
    picked_R = jnp.take_along_axis(scores_RxV, targets_R[:, None], axis=1)[:, 0]
    losses_R = jax.nn.logsumexp(scores_RxV, axis=1) - picked_R
    right_R = jax.lax.stop_gradient(picked_R >= scores_RxV.max(1))
    return (losses_R * weights_R).sum(), (right_R * weights_R).sum()


@jax.custom_vjp
def _chunked(hidden_CxRxD, table_VxD, bias_V, targets_CxR, weights_CxR):
    chunk = lambda xs: _whole(xs[0], table_VxD, bias_V, *xs[1:])
    losses_C, right_C = jax.lax.map(chunk, (hidden_CxRxD, targets_CxR, weights_CxR))
    return losses_C.sum(), right_C.sum()


def _chunked_forward(hidden_CxRxD, table_VxD, bias_V, targets_CxR, weights_CxR):
    def step(grads, xs):
        hidden_RxD, targets_R, weights_R = xs
        scores_RxV = _scores(hidden_RxD, table_VxD, bias_V)
        picked_R = jnp.take_along_axis(scores_RxV, targets_R[:, None], axis=1)[:, 0]
        most_R = scores_RxV.max(1)
        shifted_RxV = jnp.exp(scores_RxV - most_R[:, None])
        sum_R = shifted_RxV.sum(1)
        pulls_RxV = shifted_RxV * (weights_R / sum_R)[:, None]
        pulls_RxV = pulls_RxV.at[jnp.arange(targets_R.size), targets_R].add(-weights_R)
        of_table = grads[0] + jnp.einsum('RV,RD->VD', pulls_RxV, hidden_RxD)
        of_bias = None if bias_V is None else grads[1] + pulls_RxV.sum(0)
        loss = ((jnp.log(sum_R) + most_R - picked_R) * weights_R).sum()
        right = ((picked_R >= most_R) * weights_R).sum()
        return (of_table, of_bias), (loss, right, pulls_RxV @ table_VxD)

    start = jnp.zeros_like(table_VxD), None if bias_V is None else jnp.zeros_like(bias_V)
    xs = hidden_CxRxD, targets_CxR, weights_CxR
    of_weights, (losses_C, right_C, of_hidden) = jax.lax.scan(step, start, xs)
    return (losses_C.sum(), right_C.sum()), (of_hidden, *of_weights)


def _chunked_backward(grads, pulls):
    return *jax.tree.map(lambda x: x * pulls[0], grads), None, None


_chunked.defvjp(_chunked_forward, _chunked_backward)


def gpt2_loss(params, batch, sizes: Sizes):
    """Causal LM: pre-norm layers with biases, learned positions, tied scores."""
    p, table = params['decoder'], params['token_embedding']['embedding']
    tokens_BxL, segments_BxL = batch['decoder_input_tokens'], batch['decoder_segment_ids']
    mask_BxLxL = and_causal(same_segment(segments_BxL, segments_BxL))
    positions = p['positions']['embedding'][batch['decoder_positions'].reshape(-1)]
    x_RxD = table[tokens_BxL.reshape(-1)] + positions
    for layer in p['blocks']:
        y = layer_norm(x_RxD, layer['attention_norm'], sizes.eps)
        scale = (x_RxD.shape[1] // sizes.heads) ** -0.5
        x_RxD = x_RxD + attention(y, y, layer['attention'], mask_BxLxL, sizes.heads, scale)
        y = layer_norm(x_RxD, layer['mlp_norm'], sizes.eps)
        mlp = layer['mlp']
        x_RxD = x_RxD + linear(gelu_tanh(linear(y, mlp['wide'])), mlp['out'])
    hidden_RxD = layer_norm(x_RxD, p['norm'], sizes.eps)
    targets, weights = batch['decoder_target_tokens'], batch['decoder_loss_weights']
    scored = targets.reshape(-1), weights.reshape(-1)
    loss, right = token_losses(hidden_RxD, table, None, *scored)
    return loss / weights.sum(), right


def bert_loss(params, batch, sizes: Sizes):
    """Masked LM of the predicted positions alone: post-norm layers, tied scores with a bias."""
    p, table = params['encoder'], params['token_embedding']['embedding']
    tokens_BxL, segments_BxL = batch['encoder_input_tokens'], batch['encoder_segment_ids']
    mask_BxLxL = same_segment(segments_BxL, segments_BxL)
    positions = p['positions']['embedding'][batch['encoder_positions'].reshape(-1)]
    x_RxD = table[tokens_BxL.reshape(-1)] + positions + p['types']['embedding'][:1]
    x_RxD = layer_norm(x_RxD, p['embedding_norm'], sizes.eps)
    for layer in p['blocks']:
        scale = (x_RxD.shape[1] // sizes.heads) ** -0.5
        y = attention(x_RxD, x_RxD, layer['attention'], mask_BxLxL, sizes.heads, scale)
        x_RxD = layer_norm(x_RxD + y, layer['attention_norm'], sizes.eps)
        y = linear(gelu(linear(x_RxD, layer['mlp']['wide'])), layer['mlp']['out'])
        x_RxD = layer_norm(x_RxD + y, layer['mlp_norm'], sizes.eps)
    places_BxP = batch['encoder_predicted_positions']
    rows = (places_BxP + tokens_BxL.shape[1] * jnp.arange(places_BxP.shape[0])[:, None]).reshape(-1)
    head = params['heads']['mlm']
    hidden_RxD = layer_norm(gelu(linear(x_RxD[rows], head['dense'])), head['norm'], sizes.eps)
    weights = batch['encoder_loss_weights']
    scored = batch['encoder_target_tokens'].reshape(-1)[rows], weights.reshape(-1)[rows]
    loss, right = token_losses(hidden_RxD, table, head['bias'], *scored)
    return loss / weights.sum(), right


def t5_loss(params, batch, sizes: Sizes):
    """T5 1.1: pre-norm layers without biases, relative positions, gated GELU, untied scores."""
    table = params['token_embedding']['embedding']
    encoder_BxM, decoder_BxL = batch['encoder_segment_ids'], batch['decoder_segment_ids']
    embed = lambda side: table[batch[f'{side}_input_tokens'].reshape(-1)]
    mask = same_segment(encoder_BxM, encoder_BxM)
    memory_RxD = t5_stack(params['encoder'], embed('encoder'), mask, sizes, both_ways=True)
    mask = and_causal(same_segment(decoder_BxL, decoder_BxL))
    across = memory_RxD, same_segment(decoder_BxL, encoder_BxM)
    own = dict(both_ways=False, across=across)
    hidden_RxD = t5_stack(params['decoder'], embed('decoder'), mask, sizes, **own)
    targets, weights = batch['decoder_target_tokens'], batch['decoder_loss_weights']
    scored = targets.reshape(-1), weights.reshape(-1)
    loss, right = token_losses(hidden_RxD, params['output']['embedding'], None, *scored)
    return loss / weights.sum(), right


def t5_stack(p, x_RxD, mask_BxLxL, sizes: Sizes, *, both_ways: bool, across=None):
    """All layers and the last norm; `across` is a memory and the mask of who sees it."""
    buckets_LxL = relative_buckets(mask_BxLxL.shape[1], sizes, both_ways)
    bias_HxLxL = p['positions']['relative_bias'][buckets_LxL].transpose(2, 0, 1)
    for layer in p['blocks']:
        y = rms_norm(x_RxD, layer['attention_norm'], sizes.eps)
        own = layer['attention'], mask_BxLxL, sizes.heads, 1.0, bias_HxLxL
        x_RxD = x_RxD + attention(y, y, *own)
        if across is not None:
            y = rms_norm(x_RxD, layer['cross_norm'], sizes.eps)
            memory_RxD, mask_BxLxM = across
            cross = attention(y, memory_RxD, layer['cross'], mask_BxLxM, sizes.heads, 1.0)
            x_RxD = x_RxD + cross
        y, mlp = rms_norm(x_RxD, layer['mlp_norm'], sizes.eps), layer['mlp']
        y = gelu_tanh(linear(y, mlp['wide'])) * linear(y, mlp['gate'])
        x_RxD = x_RxD + linear(y, mlp['out'])
    return rms_norm(x_RxD, p['norm'], sizes.eps)


def relative_buckets(length: int, sizes: Sizes, both_ways: bool) -> np.ndarray:
    """T5's bucket of every pair of places, constants [L, L] (Raffel et al. 2020)."""
    away = np.arange(length)[None, :] - np.arange(length)[:, None]
    buckets = sizes.buckets // 2 if both_ways else sizes.buckets
    first = buckets * (away > 0) if both_ways else 0
    away = np.abs(away) if both_ways else np.maximum(-away, 0)
    exact = buckets // 2
    ratio = np.log(np.maximum(away, 1).astype(np.float32) / exact)
    far = exact + (ratio / math.log(sizes.max_distance / exact) * (buckets - exact)).astype(int)
    return first + np.where(away < exact, away, np.minimum(far, buckets - 1))
