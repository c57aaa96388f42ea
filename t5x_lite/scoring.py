"""What scored tokens stand for: bytes of text, a unigram model of them; and means to numbers."""
# SPDX-License-Identifier: Apache-2.0

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from t5x_lite.metrics import Mean


class Scored(NamedTuple):
    """The scored targets of a term: how many, the bytes of text they stand for, each id's count."""

    tokens: int
    bytes: int
    histogram_V: np.ndarray

    def __add__(self, other: 'Scored') -> 'Scored':
        return Scored(*(a + b for a, b in zip(self, other, strict=True)))


def scored(objective, batch, bytes_per_token_V: np.ndarray) -> dict[str, Scored]:
    """What each term that scores tokens does score in a batch: targets with a loss weight."""
    out = {}
    for name, term in objective.terms.items():
        side = getattr(term.loss, 'side', None)
        if side:
            ids = batch[f'{side}_target_tokens'][batch[f'{side}_loss_weights'] > 0]
            histogram_V = np.bincount(ids, minlength=len(bytes_per_token_V))
            out[name] = Scored(ids.size, int(bytes_per_token_V[ids].sum()), histogram_V)
    return out


def add(a: Mapping[str, Scored], b: Mapping[str, Scored]) -> dict[str, Scored]:
    """Two batches' counts together."""
    return {name: a[name] + b[name] if name in a else b[name] for name in b}


def unigram(counts: Scored) -> np.ndarray:
    """Log-probabilities [V] of a unigram model of the counted targets, one added to each count."""
    return np.log(counts.histogram_V + 1.0) - math.log(counts.tokens + counts.histogram_V.size)


def summarise(
    means: Mapping[str, Mean],
    counts: Mapping[str, Scored],
    unigrams: Mapping[str, np.ndarray],
    prefix_of: Mapping[str, str],
) -> Iterator[tuple[str, float]]:
    """Means to numbers; for terms that score tokens also perplexity and bits per byte.

    Bits per byte is the sum of nll / ln 2 over the bytes of the scored text (special tokens are
    scored and have none). Terms in `unigrams` add what that model pays for the same targets.
    """
    for name, mean in means.items():
        if not name.endswith('/nll'):
            yield name, float(mean.value)
    for term, count in counts.items():
        prefix = prefix_of[term]
        nll = means[f'{prefix}/nll']
        yield f'{prefix}/perplexity', math.exp(min(nll.value, 700.0))
        totals = {'': float(nll.total)}
        if term in unigrams:
            totals['unigram_'] = -float((unigrams[term] * count.histogram_V).sum())
            yield f'{prefix}/unigram_loss', totals['unigram_'] / max(count.tokens, 1)
        if count.bytes:
            for model, total in totals.items():
                yield f'{prefix}/{model}bits_per_byte', total / (math.log(2) * count.bytes)
