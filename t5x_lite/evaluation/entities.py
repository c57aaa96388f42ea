"""Scores of tagged entities: those of conlleval, from sequences of BIO tags."""
# SPDX-License-Identifier: Apache-2.0
# A tag is 'O', 'B-TYPE' or 'I-TYPE'. Functions take lists of tags, one list for each sentence.

from collections.abc import Iterable, Sequence

from t5x_lite.errors import ConfigError
from t5x_lite.evaluation.classes import f1

Tags = Sequence[Sequence[str]]


def entities(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """(begin, end, type) of each entity of a sentence; `end` is the first place after it.

    One begins at every B, and at an I after O or after another type; it goes on over I's of its
    type. So read both IOB1 and IOB2, as conlleval does (Tjong Kim Sang & Buchholz 2000).
    """
    found, begin, kind = set(), 0, ''
    for i, tag in enumerate([*tags, 'O']):
        mark, _, own = tag.partition('-')
        if kind and (mark != 'I' or own != kind):
            found.add((begin, i, kind))
            kind = ''
        if mark != 'O' and not kind:
            begin, kind = i, own
    return found


def check_tags(objective: str, tags: Iterable[str]) -> None:
    """ConfigError unless all are O, B-TYPE or I-TYPE."""
    for tag in tags:
        mark, _, kind = tag.partition('-')
        if tag != 'O' and not (mark in ('B', 'I') and kind):
            raise ConfigError(
                f"{objective}: tags hold {tag!r}; each must be 'O', 'B-TYPE' or 'I-TYPE' for "
                'entities to be found'
            )


def _counts(predictions: Tags, targets: Tags) -> tuple[int, int, int]:
    """How many entities were found rightly, were found, and are there."""
    found = [entities(tags) for tags in predictions]
    true = [entities(tags) for tags in targets]
    right = sum(len(a & b) for a, b in zip(found, true, strict=True))
    return right, sum(map(len, found)), sum(map(len, true))


def entity_f1(predictions: Tags, targets: Tags) -> float:
    """F1 of whole entities: begin, end and type must be right; 0 if there are none."""
    return f1(*_counts(predictions, targets))


def entity_precision(predictions: Tags, targets: Tags) -> float:
    """The share of the entities found that are right; 0 if none was found."""
    right, found, _ = _counts(predictions, targets)
    return right / found if found else 0.0


def entity_recall(predictions: Tags, targets: Tags) -> float:
    """The share of the true entities that were found; 0 if there are none."""
    right, _, true = _counts(predictions, targets)
    return right / true if true else 0.0


def tag_accuracy(predictions: Tags, targets: Tags) -> float:
    """The share of words whose tag is right."""
    pairs = [p for a, b in zip(predictions, targets, strict=True) for p in zip(a, b, strict=True)]
    return sum(a == b for a, b in pairs) / max(len(pairs), 1)
