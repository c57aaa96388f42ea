"""Fill: what a masked LM puts in the place of `[MASK]`."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.data.vocabularies import NAMES
from t5x_lite.errors import ConfigError
from t5x_lite.evaluation.batches import power_of_two
from t5x_lite.inference.verbs import text_of
from t5x_lite.model.heads import MaskedLMHead

MASK = NAMES['mask'][0]  # how any vocabulary's mask may be written


@dataclass(frozen=True, kw_only=True)
class Fill:
    """The `top` likeliest tokens, with their probabilities, for each `[MASK]` of a text.

    Every mask is filled by itself, the others still masked. `head` names the masked LM head of a
    model with several.
    """

    top: int = 5
    head: str | None = None

    def __post_init__(self):
        if type(self.top) is not int or self.top < 1:
            raise ConfigError(f'fill: top={self.top!r} must be an integer of 1 or more')

    def check(self, opened) -> None:
        if not opened.model.encoder_layers or self._head(opened) is None:
            heads = ', '.join(opened.heads) or 'none'
            raise ConfigError(f'fill: {opened.run} has no masked LM head; its heads: {heads}')
        if opened.info.mask is None:
            raise ConfigError(f'fill: the vocabulary of {opened.run} has no {MASK}')

    def prepare(self, opened, example) -> list[int]:
        ids = _with_masks(text_of(example), opened)
        if opened.info.mask not in ids:
            raise ConfigError(f'the text has no {MASK}: {text_of(example)!r:.60}; write it in')
        return opened.framed(ids)

    def _head(self, opened) -> str | None:
        return opened.head(self.head, MaskedLMHead, 'masked LM')

    def run(self, opened, prepared: Sequence[list[int]], numbers) -> list[dict]:
        """{'text': with the likeliest tokens in place, 'masks': [[{'token', 'p'}, ..], ..]}."""
        info = opened.info
        tokens_NxL, segments_NxL = opened.padded(prepared)
        masks = [np.flatnonzero(row == info.mask) for row in tokens_NxL]
        places_NxP = np.zeros((len(masks), power_of_two(max(map(len, masks)))), np.int32)
        for i, places in enumerate(masks):
            places_NxP[i, : len(places)] = places
        rows = {'tokens': tokens_NxL, 'segments': segments_NxL, 'places': places_NxP}
        top = min(self.top, info.size)
        found = opened.compute(_filled, rows, head=self._head(opened), top=top, size=info.size)
        out = []
        for i, places in enumerate(masks):
            ids_PxT, shares_PxT = (found[n][i, : len(places)] for n in ('ids', 'shares'))
            whole = np.array(prepared[i])
            whole[places] = ids_PxT[:, 0]
            inside = [int(id) for id in whole if id not in (info.cls, info.sep, info.eos)]
            choices = [
                [
                    {'token': info.pieces[id], 'p': round(float(p), 6)}
                    for id, p in zip(ids, shares, strict=True)
                ]
                for ids, shares in zip(ids_PxT, shares_PxT, strict=True)
            ]
            out.append({'text': info.text(inside), 'masks': choices})
        return out


def _with_masks(text: str, opened) -> list[int]:
    """Ids of a text in which `[MASK]`, or the vocabulary's own name of it, is the mask."""
    info = opened.info
    own = info.pieces[info.mask]
    if opened.ids(own) == [info.mask]:  # the vocabulary reads it in a text
        return opened.ids(text.replace(MASK, own))
    parts, ids = text.replace(own, MASK).split(MASK), []
    for i, part in enumerate(parts):  # the space in front belongs to the token that is masked
        ids += opened.ids(part.rstrip() if i + 1 < len(parts) else part) if part.strip() else []
        ids += [info.mask] if i + 1 < len(parts) else []
    return ids


def _filled(model, batch, *, head: str, top: int, size: int):
    hidden_BxLxD = model.encode(batch['tokens'], segments=batch['segments'])
    hidden_BxPxD = jnp.take_along_axis(hidden_BxLxD, batch['places'][..., None], axis=1)
    scores_BxPxV = model.heads[head](hidden_BxPxD, model)[..., :size].astype(jnp.float32)
    shares, ids = jax.lax.top_k(jax.nn.softmax(scores_BxPxV), top)
    return {'shares': shares, 'ids': ids}
