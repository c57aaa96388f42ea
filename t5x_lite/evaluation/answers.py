"""Scores of answers in words: exact match and F1 after SQuAD's normalisation."""
# SPDX-License-Identifier: Apache-2.0
# Functions take one answer for each question, and for each all those that are right.

import collections
import re
import string
from collections.abc import Callable, Sequence

_PUNCTUATION = str.maketrans('', '', string.punctuation)
_ARTICLES = re.compile(r'\b(a|an|the)\b')


def normalised(answer: str) -> str:
    """Lower case, without punctuation and articles, words apart by one space.

    Source: Rajpurkar et al. 2016, the evaluation of SQuAD 1.1.
    """
    return ' '.join(_ARTICLES.sub(' ', answer.lower().translate(_PUNCTUATION)).split())


def exact_match(predictions: Sequence[str], targets: Sequence[Sequence[str]]) -> float:
    """The share of questions whose answer is one of the right ones, or '' where none is."""
    return _mean(_same, predictions, targets)


def answer_f1(predictions: Sequence[str], targets: Sequence[Sequence[str]]) -> float:
    """The mean over questions of the best F1 of words with a right answer.

    Where no answer is right (none is given, or ''), one must be silent (SQuAD 2.0: Rajpurkar et
    al. 2018).
    """
    return _mean(_f1, predictions, targets)


def _mean(score: Callable[[str, str], float], predictions, targets) -> float:
    best = [
        max(score(normalised(found), normalised(true)) for true in answers or ('',))
        for found, answers in zip(predictions, targets, strict=True)
    ]
    return sum(best) / max(len(best), 1)


def _same(found: str, true: str) -> float:
    return float(found == true)


def _f1(found: str, true: str) -> float:
    a, b = found.split(), true.split()
    if not a or not b:
        return float(a == b)
    common = sum((collections.Counter(a) & collections.Counter(b)).values())
    return 2.0 * common / (len(a) + len(b))
