"""Pooling to one vector a row, and the contrastive loss over all rows of the global batch."""
# SPDX-License-Identifier: Apache-2.0
# B rows of the batch, C columns of a table of scores, D embed, N layers.

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_lite.errors import ConfigError, nearest
from t5x_lite.metrics import Mean
from t5x_lite.sharding import constrain

WHOLE = 2048  # a batch of more rows is compared by chunks of columns, never as one B x B table
CHUNK = 512
MASKED = -1e9
DIRECTIONS = ('rows', 'mean', 'sum')


def pool_cls(hidden_BxLxD, mask_BxL):
    """The first position's vector, [B, D]."""
    return hidden_BxLxD[:, 0]


def pool_mean(hidden_BxLxD, mask_BxL):
    """The mean over unpadded positions, [B, D]; 0 for a row of padding."""
    mask = mask_BxL[..., None].astype(hidden_BxLxD.dtype)
    return (hidden_BxLxD * mask).sum(1) / jnp.maximum(mask.sum(1), 1)


def pool_last(hidden_BxLxD, mask_BxL):
    """The last unpadded position's vector, [B, D]: of a decoder, the one that saw the whole row."""
    last_B = jnp.maximum(mask_BxL.sum(1) - 1, 0)
    return jnp.take_along_axis(hidden_BxLxD, last_B[:, None, None], axis=1)[:, 0]


def pool_first_last(layers_NxBxLxD, mask_BxL):
    """`pool_mean` of the mean of the first and the last layer (SimCSE's avg_first_last)."""
    return pool_mean((layers_NxBxLxD[0] + layers_NxBxLxD[-1]) / 2, mask_BxL)


def pool_last_two(layers_NxBxLxD, mask_BxL):
    """`pool_mean` of the mean of the last two layers (SimCSE's avg_top2), or of the only one."""
    return pool_mean(layers_NxBxLxD[-2:].mean(0), mask_BxL)


pool_first_last.every_layer = pool_last_two.every_layer = True
POOLS = {
    'cls': pool_cls,
    'mean': pool_mean,
    'last': pool_last,
    'first_last': pool_first_last,
    'last_two': pool_last_two,
}
"""Pooling functions by the names that commands know."""


def every_layer(pool: Callable) -> bool:
    """Whether a pooling function takes all layers' hidden states, not the last layer's."""
    return getattr(pool, 'every_layer', False)


def pooled(pool: Callable, outputs, view: str, mask_BxL):
    """A view such as `encoder_hidden`, or the layers that go with it, as one vector a row."""
    name = view.replace('_hidden', '_layers') if every_layer(pool) else view
    return pool(outputs[name], mask_BxL)


def normalise_rows(x_BxD):
    """Rows scaled to unit length in float32; a row of zeros stays zero, with a finite gradient."""
    x = x_BxD.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))


class View(NamedTuple):
    """One side of every row: unit vectors, whether the row has it, and a number of its text.

    Rows of equal `ids` have the same text; None if that is not known.
    """

    vectors_BxD: jax.Array
    real_B: jax.Array
    ids_B: Any = None


@dataclass(frozen=True, kw_only=True)
class ContrastiveLoss:
    """Rows find their own second view among those of the global batch.

    loss_i = -log(exp(z_ii) / sum_j(exp(z_ij) + exp(h_ij))), z = cosine / temperature; h are scores
    with a third view, the hard negatives, if there is one (Gao et al. 2021). See `in_batch_loss`.

    Args:
      temperature: None takes exp(head.temperature) as the factor (CLIP: Radford et al. 2021).
      pool: how hidden states become one vector; the head follows, then scaling to unit length.
      views: names of outputs: queries, keys, and perhaps hard negatives.
      directions: 'rows', or with keys that find their queries 'mean' or 'sum' of the two.
      margin: taken off the logits of own pairs (Yang et al. 2019; google-research/t5x_retrieval).
      hard_weight: added to the logit of a row's own hard negative (Gao et al. 2021).
    """

    temperature: float | None = 0.05
    pool: Callable = pool_cls
    views: tuple[str, ...] = ('encoder_hidden', 'encoder_hidden_2')
    directions: str = 'rows'
    margin: float = 0.0
    hard_weight: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, 'views', tuple(self.views))
        if self.temperature is not None and self.temperature <= 0:
            raise ConfigError(
                f'ContrastiveLoss: temperature={self.temperature} must be above 0; try 0.05'
            )
        if self.directions not in DIRECTIONS:
            raise ConfigError(
                f'ContrastiveLoss: directions={self.directions!r} is unknown; '
                f'{nearest(self.directions, DIRECTIONS)}'
            )
        if len(self.views) not in (2, 3):
            raise ConfigError(
                f'ContrastiveLoss: views={self.views} must be two outputs, or three with hard '
                "negatives; try ('encoder_hidden', 'encoder_hidden_2')"
            )
        if self.hard_weight and not self.own_negatives:
            raise ConfigError(
                f'ContrastiveLoss: hard_weight={self.hard_weight} is for hard negatives, but views='
                f'{self.views} has none; leave it 0'
            )

    @property
    def own_negatives(self) -> bool:
        return len(self.views) == 3

    def __call__(self, model, head, outputs, batch) -> dict[str, Mean]:
        return self.compare(model, head, self.embed(model, head, outputs, batch), batch)

    def embed(self, model, head, outputs, batch) -> dict[str, jax.Array]:
        """Unit vectors [b, D] of each view, by its name."""
        vectors = {}
        for place, view in enumerate(self.views):
            x_BxD = pooled(self.pool, outputs, view, batch[f'{_side(view)}_segment_ids'] > 0)
            vectors[view] = normalise_rows(head(x_BxD, place) if head else x_BxD)
        return vectors

    def compare(self, model, head, vectors, batch) -> dict[str, Mean]:
        """`in_batch_loss` over the whole batch; also the factor if it is learned."""
        views = [
            View(
                vectors[view],
                (batch[f'{_side(view)}_segment_ids'] > 0).any(-1),
                batch.get(f'{_side(view)}_example_ids'),
            )
            for view in self.views
        ]
        learned = self.temperature is None
        scale = jnp.exp(_temperature(head)) if learned else jnp.float32(1.0 / self.temperature)
        means = in_batch_loss(
            *views,
            scale=scale,
            directions=self.directions,
            margin=self.margin,
            hard_weight=self.hard_weight,
        )
        return means | ({'scale': Mean(scale, jnp.float32(1.0))} if learned else {})


def _side(view: str) -> str:
    """`encoder` of `encoder_hidden_2`: what its tokens are called in the batch."""
    return view.partition('_hidden')[0]


def _temperature(head):
    if getattr(head, 'temperature', None) is None:
        raise ConfigError(
            'ContrastiveLoss: temperature=None is learned by the head, but this head has none; use '
            'SimilarityHead(temperature=0.07)'
        )
    return head.temperature[...]


def in_batch_loss(
    query: View,
    key: View,
    negative: View | None = None,
    *,
    scale,
    directions: str = 'rows',
    margin: float = 0.0,
    hard_weight: float = 0.0,
) -> dict[str, Mean]:
    """Cross-entropy of each query's own key among the keys (and hard negatives) of all rows.

    A row counts if it has query and key. Out of the denominator stay rows that do not, and known
    duplicates: other rows of the same query or key text, negatives that are the row's own key.
    Reports `loss`; `accuracy`, the share of queries whose own key has the highest cosine, ties
    counted against the model; `alignment`, the mean squared distance of query and key.
    """
    real_B = query.real_B & key.real_B
    table = functools.partial(_table, scale=scale)
    rows = _Axis(query.vectors_BxD, real_B, (query.ids_B, key.ids_B))
    columns = _Axis(key.vectors_BxD, real_B, (query.ids_B, key.ids_B))
    keys = table(rows, columns, bonus=-margin, answers=True)
    log_z_B, rival_B = keys.log_z_B, keys.rival_B
    if negative is not None:
        columns = _Axis(negative.vectors_BxD, negative.real_B & real_B, (negative.ids_B,))
        rows = _Axis(query.vectors_BxD, real_B, (key.ids_B,))
        hard = table(rows, columns, bonus=hard_weight, answers=False)
        log_z_B = jnp.logaddexp(log_z_B, hard.log_z_B)
        rival_B = jnp.maximum(rival_B, hard.rival_B)
    nll_B = log_z_B - keys.own_B
    if directions != 'rows':
        nll_B = nll_B + (keys.column_log_z_C - keys.own_B)
        nll_B = nll_B / 2 if directions == 'mean' else nll_B
    apart_B = jnp.square(query.vectors_BxD - key.vectors_BxD).sum(-1)
    mean = lambda x_B: Mean(jnp.where(real_B, x_B, 0.0).sum(), real_B.sum().astype(jnp.float32))
    right_B = (keys.own_cosine_B > rival_B).astype(jnp.float32)
    return {'loss': mean(nll_B), 'accuracy': mean(right_B), 'alignment': mean(apart_B)}


class _Axis(NamedTuple):
    """Rows or columns of a table of scores; `texts` are compared in pairs to find duplicates."""

    vectors_BxD: jax.Array
    real_B: jax.Array
    texts: tuple  # of [B] or None
    place_B: Any = None


class _Scores(NamedTuple):
    """What is kept of a table: each row's log sum of exponentials, best other cosine, own score."""

    log_z_B: jax.Array
    rival_B: jax.Array
    own_B: jax.Array
    own_cosine_B: jax.Array
    column_log_z_C: jax.Array


def _table(rows: _Axis, columns: _Axis, *, scale, bonus: float, answers: bool) -> _Scores:
    """The scores of all rows against all columns; of a large batch by chunks of columns.

    Rows stay on their devices, each device has all columns. By chunks no table of B x B exists,
    forward or backward: a chunk's table is made again for its gradient.
    """
    size = rows.real_B.shape[0]
    place_B = jnp.arange(size)
    rows = rows._replace(vectors_BxD=constrain(rows.vectors_BxD, 'batch', None), place_B=place_B)
    columns = columns._replace(
        vectors_BxD=constrain(columns.vectors_BxD, None, None), place_B=place_B
    )
    if size <= WHOLE:
        return _block(rows, columns, scale, bonus, answers)
    block = jax.checkpoint(lambda *args: _block(*args, bonus, answers), prevent_cse=False)
    step = lambda _, chunk: (None, block(rows, chunk, scale))
    _, parts = jax.lax.scan(step, None, jax.tree.map(_chunks, columns))
    return _Scores(
        log_z_B=jax.nn.logsumexp(parts.log_z_B, axis=0),
        rival_B=parts.rival_B.max(0),
        own_B=parts.own_B.sum(0),
        own_cosine_B=parts.own_cosine_B.sum(0),
        column_log_z_C=parts.column_log_z_C.reshape(-1)[:size],
    )


def _chunks(x):
    """[B, ...] as [chunks, CHUNK, ...]; columns are filled up with ones that are not real."""
    x = jnp.pad(x, ((0, -x.shape[0] % CHUNK),) + ((0, 0),) * (x.ndim - 1))
    return x.reshape(-1, CHUNK, *x.shape[1:])


def _block(rows: _Axis, columns: _Axis, scale, bonus: float, answers: bool) -> _Scores:
    """A table in one piece. `bonus` goes to the logits of own columns, which `answers` keeps."""
    cosine_BxC = jnp.einsum(
        'BD,CD->BC', rows.vectors_BxD, columns.vectors_BxD, precision=jax.lax.Precision.HIGHEST
    )
    own_BxC = (rows.place_B[:, None] == columns.place_B[None]) & columns.real_B[None]
    out_BxC = jnp.broadcast_to(~columns.real_B[None], cosine_BxC.shape)
    for row_B, column_C in zip(rows.texts, columns.texts, strict=True):
        if row_B is not None and column_C is not None:
            same_BxC = row_B[:, None] == column_C[None]
            out_BxC = out_BxC | (same_BxC & ~own_BxC if answers else same_BxC)
    logits_BxC = scale * cosine_BxC + bonus * own_BxC
    logits_BxC = jnp.where(out_BxC, MASKED, logits_BxC)
    no_rival_BxC = out_BxC | own_BxC if answers else out_BxC
    by_column_BxC = jnp.where(rows.real_B[:, None], logits_BxC, MASKED)
    return _Scores(
        log_z_B=jax.nn.logsumexp(logits_BxC, axis=1),
        rival_B=jnp.where(no_rival_BxC, -jnp.inf, jax.lax.stop_gradient(cosine_BxC)).max(1),
        own_B=jnp.where(own_BxC, logits_BxC, 0.0).sum(1),
        own_cosine_B=jax.lax.stop_gradient(jnp.where(own_BxC, cosine_BxC, 0.0).sum(1)),
        column_log_z_C=jax.nn.logsumexp(by_column_BxC, axis=0),
    )
