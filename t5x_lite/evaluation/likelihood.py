"""How likely a model finds a text: log-probabilities by a decoder, pseudo ones by a masked LM."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.data import masking
from t5x_lite.evaluation.batches import Through

MASKED_AT_ONCE = 4096  # rows that are in memory together: a text has one for each of its tokens


class Text(NamedTuple):
    """Ids of a text: `given`, then `targets`, which are scored, then `end`; [] where there is none.

    `inputs` is what an encoder reads beside a decoder. `given` and `end` of an encoder alone are
    the marks around its text.
    """

    targets: list[int]
    given: list[int]
    end: list[int] = []
    inputs: list[int] = []

    @property
    def row(self) -> list[int]:
        return [*self.given, *self.targets, *self.end]


class TokenScores(NamedTuple):
    """Of each target: its log-probability (nats, float32), and whether no token is likelier."""

    log_probs_T: np.ndarray
    likeliest_T: np.ndarray

    @property
    def total(self) -> float:
        """The text's log-probability, in nats."""
        return float(self.log_probs_T.sum(dtype=np.float64))


# -- decoders -------------------------------------------------------------------------------------


def by_decoder(
    texts: Sequence[Text], through: Through, *, both_ways: bool = False
) -> list[TokenScores]:
    """Each target from what stands before it, `given` being where the row begins.

    `both_ways`: tokens of `given` see each other, as in training on prefixes.
    """
    tokens_NxL, segments_NxL = through.padded([text.row[:-1] for text in texts])
    rows = {'tokens': tokens_NxL, 'segments': segments_NxL}
    rows['targets'], rows['prefix'] = np.zeros((2, *tokens_NxL.shape), np.int32)
    for i, text in enumerate(texts):
        rows['targets'][i, : len(text.row) - 1] = text.row[1:]
        rows['prefix'][i, : len(text.given)] = both_ways
    if texts[0].inputs:
        rows['inputs'], rows['input_segments'] = through.padded([text.inputs for text in texts])
    found = through.compute(_decoded, rows)
    places = [np.arange(len(text.targets)) + len(text.given) - 1 for text in texts]
    return [
        TokenScores(found['log_probs'][i, place], found['likeliest'][i, place])
        for i, place in enumerate(places)
    ]


def _decoded(model, batch):
    more = {}
    if 'inputs' in batch:
        more['memory'] = model.encode(batch['inputs'], segments=batch['input_segments'])
        more['memory_segments'] = batch['input_segments']
    else:
        more['prefix'] = batch['prefix']
    hidden_BxLxD, _ = model.decode(batch['tokens'], segments=batch['segments'], **more)
    return _of_targets(model.logits(hidden_BxLxD), batch['targets'])


def _of_targets(scores_BxLxV, targets_BxL) -> dict[str, jax.Array]:
    scores_BxLxV = scores_BxLxV.astype(jnp.float32)
    own_BxL = jnp.take_along_axis(scores_BxLxV, targets_BxL[..., None], axis=-1)[..., 0]
    log_probs_BxL = own_BxL - jax.nn.logsumexp(scores_BxLxV, axis=-1)
    return {'log_probs': log_probs_BxL, 'likeliest': own_BxL >= scores_BxLxV.max(axis=-1)}


# -- masked LMs -----------------------------------------------------------------------------------


def by_masked_lm(
    texts: Sequence[Text], through: Through, vocabulary, *, head: str, within_word: bool = False
) -> list[TokenScores]:
    """Each target from the whole text, in which it alone is masked (Salazar et al. 2020).

    With `within_word` the later pieces of its word are masked too (Kauf & Ivanova 2023): else a
    long rare word is found likely, since its pieces tell each other. `head` names the masked LM
    head.
    """
    places = [(i, place) for i, text in enumerate(texts) for place in range(len(text.targets))]
    words = [_words(text, vocabulary, within_word) for text in texts]
    longest = max((text.row for text in texts), key=len)  # all parts are as wide
    parts = []
    for begin in range(0, len(places), MASKED_AT_ONCE):
        own = places[begin : begin + MASKED_AT_ONCE]
        tokens_NxL, segments_NxL = through.padded([*(texts[i].row for i, _ in own), longest])
        at_Nx1 = np.array([[len(texts[i].given) + place] for i, place in own], np.int32)
        rows = {'tokens': tokens_NxL[:-1], 'segments': segments_NxL[:-1], 'places': at_Nx1}
        rows['targets'] = np.take_along_axis(rows['tokens'], at_Nx1, axis=1)
        for row_L, (i, place), at in zip(rows['tokens'], own, at_Nx1[:, 0], strict=True):
            row_L[at : at + 1 + _later(words[i], place)] = vocabulary.mask
        parts.append(through.compute(_filled, rows, head=head))
    whole = {name: np.concatenate([part[name][:, 0] for part in parts]) for name in parts[0]}
    ends = np.cumsum([len(text.targets) for text in texts])[:-1]
    split = [np.split(whole[name], ends) for name in ('log_probs', 'likeliest')]
    return [TokenScores(*of_text) for of_text in zip(*split, strict=True)]


def _words(text: Text, vocabulary, within_word: bool) -> np.ndarray:
    """Which word each target belongs to, ascending numbers; a special token is one of its own.

    Without `within_word` every target is.
    """
    if not within_word:
        return np.arange(len(text.targets))
    tokens_1xT = np.array([text.targets])
    special_1xT = vocabulary.special[tokens_1xT]
    own = masking.Text(tokens_1xT, ~special_1xT, vocabulary, {})
    return np.cumsum(masking.word_starts(own) | special_1xT)


def _later(words_T: np.ndarray, place: int) -> int:
    """How many targets behind that place belong to the same word."""
    return int(np.searchsorted(words_T, words_T[place], side='right')) - place - 1


def _filled(model, batch, *, head: str):
    hidden_BxLxD = model.encode(batch['tokens'], segments=batch['segments'])
    hidden_Bx1xD = jnp.take_along_axis(hidden_BxLxD, batch['places'][..., None], axis=1)
    return _of_targets(model.heads[head](hidden_Bx1xD, model), batch['targets'])
