"""The loss of spans, the best span of a row, and the answers of questions in several rows."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.errors import ConfigError
from t5x_lite.evaluation.answers import answer_f1, exact_match
from t5x_lite.metrics import Mean
from t5x_lite.objectives.losses import cross_entropy

MASKED = -1e9
NEEDED = ('window_first', 'window_begins', 'window_offsets', 'window_answers')


@dataclass(frozen=True, kw_only=True)
class SpanLoss:
    """Half the cross-entropy of an answer's first place, and half that of its last one.

    Reads the arrays of `span_qa.Windows`. All places but padding compete. `accuracy` is of both
    places together. Predictions are spans of the context, of up to `longest_answer` tokens; with
    `unanswerable` an answer is '' if the first token scores higher than any span.
    """

    longest_answer: int = 30
    unanswerable: bool = False
    metrics: ClassVar = (exact_match, answer_f1)

    def __post_init__(self):
        if type(self.longest_answer) is not int or self.longest_answer < 1:
            raise ConfigError(
                f'span_qa: longest_answer={self.longest_answer!r} must be an integer of 1 or more'
            )

    def __call__(self, model, head, outputs, batch) -> dict[str, Mean]:
        weights_B, right_B, loss_B = batch['span_weights'], True, 0.0
        for scores_BxL, name in zip(_scores(head, outputs, batch), ('begins', 'ends'), strict=True):
            own_B, _, own_right_B = cross_entropy(scores_BxL, batch[f'span_{name}'])
            loss_B, right_B = loss_B + own_B / 2, own_right_B & right_B
        mean = lambda x_B: Mean((x_B * weights_B).sum(), weights_B.sum())
        return {'loss': mean(loss_B), 'accuracy': mean(right_B)}

    def predict(self, model, head, outputs, batch) -> dict[str, jax.Array]:
        """Each row's best span in the context: place in the row, score, and the first token's."""
        begin_BxL, end_BxL = _scores(head, outputs, batch)
        found = best_spans(begin_BxL, end_BxL, _context(batch), self.longest_answer)
        needed = {name: batch[name] for name in NEEDED}
        tokens = {n: batch[f'encoder_{n}'] for n in ('input_tokens', 'segment_ids')}
        return found | needed | tokens | {'none': begin_BxL[:, 0] + end_BxL[:, 0]}

    def collect(self, rows: Mapping[str, np.ndarray], vocabulary) -> tuple[list, list]:
        """(answers, right answers of each) in words: the best span of a question's rows."""
        used = rows['segment_ids'].any(axis=1)
        number = np.cumsum(rows['window_first'] * used)
        own = [np.flatnonzero(used & (number == n)) for n in range(1, number.max(initial=0) + 1)]
        pairs = [self._answered(rows, places, vocabulary) for places in own]
        return [found for found, _ in pairs], [true for _, true in pairs]

    def _answered(self, rows, places, vocabulary) -> tuple[str, list[str]]:
        context = _joined(rows, places)
        best = places[np.argmax(rows['score'][places])]
        shift = rows['window_offsets'][best] - rows['window_begins'][best]
        begin, end = (int(rows[name][best] + shift) for name in ('begin', 'end'))
        words = lambda first, after: vocabulary.text(context[first:after]).strip()
        found = words(begin, end + 1)
        # A question has no answer if none of its rows thinks it has (Devlin et al. 2018).
        if self.unanswerable and rows['none'][places].min() > rows['score'][best]:
            found = ''
        spans = rows['window_answers'][places[0]]
        return found, [words(a, b) for a, b in spans.tolist() if a >= 0] or ['']


def _scores(head, outputs, batch) -> tuple[jax.Array, jax.Array]:
    """Scores [B, L] of being an answer's first place, and its last."""
    scores_BxLx2 = head(outputs['encoder_hidden'])
    real_BxL = batch['encoder_segment_ids'] > 0
    begin, end = (jnp.where(real_BxL, scores_BxLx2[..., i], MASKED) for i in range(2))
    return begin, end


def _context(batch) -> jax.Array:
    """Places [B, L] of the context: from its begin to before the mark that ends the row."""
    segments_BxL = batch['encoder_segment_ids']
    place_1xL = jnp.arange(segments_BxL.shape[1])[None]
    last_Bx1 = segments_BxL.sum(1, keepdims=True) - 1
    return (place_1xL >= batch['window_begins'][:, None]) & (place_1xL < last_Bx1)


def best_spans(begin_BxL, end_BxL, allowed_BxL, longest: int) -> dict[str, jax.Array]:
    """`begin`, `end` (the last place) and `score` [B] of the span that scores highest.

    Its places are allowed, it ends where it begins or later, and has up to `longest` tokens. In a
    row that allows none the score is -2e9 or less.
    """
    begin_BxL = jnp.where(allowed_BxL, begin_BxL, MASKED)
    end_BxL = jnp.where(allowed_BxL, end_BxL, MASKED)
    place_L = jnp.arange(begin_BxL.shape[1])
    ahead_LxL = place_L[None] - place_L[:, None]
    fits_1xLxL = ((ahead_LxL >= 0) & (ahead_LxL < longest))[None]
    table_BxLxL = begin_BxL[:, :, None] + end_BxL[:, None]
    table_BxLxL = jnp.where(fits_1xLxL, table_BxLxL, 3 * MASKED)
    flat = table_BxLxL.reshape(len(table_BxLxL), -1)
    begin_B, end_B = jnp.divmod(jnp.argmax(flat, axis=-1), begin_BxL.shape[1])
    return {'begin': begin_B, 'end': end_B, 'score': flat.max(-1)}


def _joined(rows, places) -> np.ndarray:
    """The tokens of a context from its windows."""
    parts = []
    for b in places.tolist():
        last = np.count_nonzero(rows['segment_ids'][b]) - 1
        part = rows['input_tokens'][b, rows['window_begins'][b] : last]
        parts.append((int(rows['window_offsets'][b]), part))
    context = np.zeros(max(offset + len(part) for offset, part in parts), np.int32)
    for offset, part in parts:
        context[offset : offset + len(part)] = part
    return context
