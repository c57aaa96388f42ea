"""Tagging: a label for each word of a text, on the word's first piece."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.data import framing, packing
from t5x_lite.data.finished import Finished
from t5x_lite.errors import ConfigError
from t5x_lite.evaluation.entities import (
    check_tags,
    entity_f1,
    entity_precision,
    entity_recall,
    tag_accuracy,
)
from t5x_lite.metrics import Mean
from t5x_lite.model.heads import ClassifierHead
from t5x_lite.objective import Objective, Schedule, Term, decode, encode
from t5x_lite.objectives.checks import check_ids, check_label, check_lengths
from t5x_lite.objectives.losses import check_stack, cross_entropy


@dataclass(frozen=True, kw_only=True)
class TaggedWords:
    """An example is a row `[CLS] words [SEP]`, or several: a row begins with a word's first piece.

    Features: `inputs`, pieces [n]; `words`, for each the number of the word that it is a part of,
    0, 1, ..; `tags`, a number below `labels` for each word [w]. The first piece of a word has its
    tag and weight 1, all other places weight 0. `tag_begins` [B] is 1 in an example's first row.
    """

    labels: int
    marks: str = 'cls'
    stack: str = 'encoder'
    features: ClassVar[tuple[str, ...]] = ('tags', 'words', 'inputs')
    longest: ClassVar[int | None] = None

    def __post_init__(self):
        framing.check_marks('tagging', self.marks)

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        least = {'inputs': 1 + framing.marks_of(1, self.marks)}
        check_lengths('tagging', lengths, least, 'a piece and the marks')
        if vocabulary is not None:
            check_ids('tagging', vocabulary, *framing.MARKS[self.marks])

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        shape = (lengths['inputs'],)
        return framing.stack_spec(self.stack, lengths['inputs']) | {
            'tag_labels': (shape, np.int32),
            'tag_weights': (shape, np.float32),
            'tag_begins': ((), np.int32),
        }

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        length = lengths['inputs']
        return Finished(lambda e: self._rows(e, length, vocabulary), self.spec(lengths))

    def _rows(self, example, length: int, vocabulary) -> Iterator[dict[str, Any]]:
        pieces, words, tags = example['inputs'], example['words'], example['tags']
        self._check(pieces, words, tags)
        firsts = np.diff(words, prepend=-1) != 0
        room, begin = length - framing.marks_of(1, self.marks), 0
        while begin < len(pieces):
            end = _end(firsts, begin, room)
            row = framing.frame([pieces[begin:end]], length, vocabulary, self.marks)
            place = row.begins[0] + np.flatnonzero(firsts[begin:end][:room])
            labels_L, weights_L = np.zeros(length, np.int32), np.zeros(length, np.float32)
            labels_L[place] = tags[words[begin:end][:room][firsts[begin:end][:room]]]
            weights_L[place] = 1.0
            own = {'tag_labels': labels_L, 'tag_weights': weights_L, 'tag_begins': begin == 0}
            yield row.arrays(self.stack) | own
            begin = end

    def _check(self, pieces, words, tags) -> None:
        numbers = np.unique(words)
        if len(words) != len(pieces) or not np.array_equal(numbers, np.arange(len(tags))):
            raise ConfigError(
                f'tagging: an example has {len(pieces)} pieces, the words of {len(words)} and '
                f'{len(tags)} tags for {len(numbers)} words; words must number them 0, 1, .. '
                'with a piece each at least; mend the task'
            )
        for tag in tags.tolist():
            check_label('tagging', 'tags', tag, self.labels)

    def draws(self, lengths: Mapping[str, int]) -> int:
        return 0

    def batch(self, rows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        return rows


def _end(firsts: np.ndarray, begin: int, room: int) -> int:
    """Where the next row begins: at the last word's start that fits, after `begin`.

    A word that fills more than a row goes on to its end: what is too much is cut off.
    """
    if len(firsts) - begin <= room:
        return len(firsts)
    starts = begin + 1 + np.flatnonzero(firsts[begin + 1 :])
    if not len(starts):
        return len(firsts)
    fitting = starts[starts <= begin + room]
    return int(fitting[-1] if len(fitting) else starts[0])


@dataclass(frozen=True, kw_only=True)
class TagLoss:
    """Cross-entropy of each weighted place's tag; `tags` are the names that scores read."""

    tags: tuple[str, ...]
    stack: str = 'encoder'
    metrics: ClassVar = (entity_f1, entity_precision, entity_recall, tag_accuracy)

    def __post_init__(self):
        check_stack('TagLoss', self.stack)
        object.__setattr__(self, 'tags', tuple(self.tags))

    def __call__(self, model, head, outputs, batch) -> dict[str, Mean]:
        weights_BxL = batch['tag_weights']
        scores_BxLxC = head(outputs[f'{self.stack}_hidden'])
        loss_BxL, _, right_BxL = cross_entropy(scores_BxLxC, batch['tag_labels'])
        mean = lambda x_BxL: Mean((x_BxL * weights_BxL).sum(), weights_BxL.sum())
        return {'loss': mean(loss_BxL), 'accuracy': mean(right_BxL)}

    def predict(self, model, head, outputs, batch) -> dict[str, jax.Array]:
        """The tag of the highest score at every place, with what `collect` needs."""
        return {
            'predictions': jnp.argmax(head(outputs[f'{self.stack}_hidden']), axis=-1),
            'targets': batch['tag_labels'],
            'weights': batch['tag_weights'],
            'begins': batch['tag_begins'],
        }

    def collect(self, rows: Mapping[str, np.ndarray], vocabulary):
        """(predictions, targets): names of the tags of each example's words, rows joined again."""
        sides = {'predictions': [], 'targets': []}
        for i, begins in enumerate(rows['begins'].tolist()):
            real = rows['weights'][i] > 0
            for name, sentences in sides.items():
                tags = [self.tags[tag] for tag in rows[name][i][real].tolist()]
                if begins:
                    sentences.append(tags)
                elif tags:  # else a row of padding
                    sentences[-1] += tags
        return sides['predictions'], sides['targets']


def tagging(
    *,
    tags: tuple[str, ...],
    marks: str = 'cls',
    stack: str = 'encoder',
    head: ClassifierHead | None = None,
    weight: float | Schedule = 1.0,
) -> Objective:
    """One of `tags`, such as ('O', 'B-person', 'I-person'), for each word; lengths {'inputs': L}.

    The head is ClassifierHead(labels=len(tags), activation=None) (BERT's tagger) if None.
    """
    check_tags('tagging', tags)
    head = head or ClassifierHead(labels=len(tags), activation=None)
    if head.labels != len(tags):
        raise ConfigError(f'tagging: head={head} must have labels={len(tags)}, as many as tags')
    converter = TaggedWords(labels=len(tags), marks=marks, stack=stack)
    term = Term(loss=TagLoss(tags=tags, stack=stack), weight=weight, head=head)
    forward = encode if stack == 'encoder' else decode
    return Objective(converter=converter, forward=forward, terms={'tagger': term})
