"""Scores of written texts: ROUGE here, BLEU and chrF by sacrebleu."""
# SPDX-License-Identifier: Apache-2.0
# Functions take texts and for each its reference; numbers are in [0, 1], those of sacrebleu in
# [0, 100].

import collections
import re
from collections.abc import Callable, Sequence

from t5x_lite.errors import ConfigError
from t5x_lite.evaluation.classes import f1

_OTHER = re.compile('[^a-z0-9]+')


def words(text: str) -> list[str]:
    """Lower case runs of a-z and 0-9: what the published ROUGE scores compare, without stemming."""
    return _OTHER.sub(' ', text.lower()).split()


def rouge_1(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """The mean F1 of words (Lin 2004)."""
    return _mean(lambda a, b: _ngrams(words(a), words(b), 1), predictions, targets)


def rouge_2(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """The mean F1 of pairs of words next to each other."""
    return _mean(lambda a, b: _ngrams(words(a), words(b), 2), predictions, targets)


def rouge_l(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """The mean F1 of the longest common subsequence of words, lines not told apart."""
    return _mean(lambda a, b: _longest(words(a), words(b)), predictions, targets)


def rouge_l_sum(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """The mean F1 of words that are in a common subsequence of some line with some line.

    A summary's sentences stand on lines of their own. A word counts as often as both sides have it.
    """
    return _mean(_longest_by_line, predictions, targets)


def _mean(score: Callable[[str, str], float], predictions, targets) -> float:
    scores = [score(a, b) for a, b in zip(predictions, targets, strict=True)]
    return sum(scores) / max(len(scores), 1)


def _ngrams(found: list[str], true: list[str], n: int) -> float:
    count = lambda x: collections.Counter(zip(*(x[i:] for i in range(n)), strict=False))
    a, b = count(found), count(true)
    return f1((a & b).total(), a.total(), b.total())


def _longest(found: list[str], true: list[str]) -> float:
    return f1(len(_common(true, found)), len(found), len(true))


def _longest_by_line(found: str, true: str) -> float:
    lines = lambda text: [w for line in text.split('\n') if (w := words(line))]
    ours, theirs = lines(found), lines(true)
    left = [collections.Counter(w for line in side for w in line) for side in (ours, theirs)]
    sizes, hits = [counter.total() for counter in left], 0
    for line in theirs:
        union = sorted({i for other in ours for i in _common(line, other)})
        for word in (line[i] for i in union):
            if all(counter[word] > 0 for counter in left):
                hits += 1
                for counter in left:
                    counter[word] -= 1
    return f1(hits, *sizes)


def _common(a: list[str], b: list[str]) -> list[int]:
    """Places in `a` of a longest subsequence that `b` has too.

    Of several the one found from the end, going back in `a` where both ways are as long.
    """
    table = [[0] * (len(b) + 1)]
    for i, word in enumerate(a):
        row = [0]
        for j, other in enumerate(b):
            row.append(table[i][j] + 1 if word == other else max(table[i][j + 1], row[j]))
        table.append(row)
    i, j, places = len(a), len(b), []
    while i and j:
        if a[i - 1] == b[j - 1]:
            i, j = i - 1, j - 1
            places.append(i)
        elif table[i][j - 1] > table[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return places[::-1]


def bleu(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """sacrebleu's corpus BLEU with its default tokenizer (Papineni et al. 2002, Post 2018)."""
    return _sacrebleu().corpus_bleu(list(predictions), [list(targets)]).score


def bleu_zh(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """sacrebleu's corpus BLEU of Chinese characters."""
    return _sacrebleu().corpus_bleu(list(predictions), [list(targets)], tokenize='zh').score


def chrf(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """sacrebleu's corpus chrF2 (Popovic 2015)."""
    return _sacrebleu().corpus_chrf(list(predictions), [list(targets)]).score


def _sacrebleu():
    try:
        import sacrebleu
    except ImportError as error:
        raise ConfigError(
            f"metrics: bleu and chrf need sacrebleu ({error}); pip install 't5x_lite[metrics]'"
        ) from error
    return sacrebleu
