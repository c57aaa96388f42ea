"""Cutters of sentence pairs: the next text or a random one (BERT), in order or swapped (ALBERT)."""
# SPDX-License-Identifier: Apache-2.0

import functools
import math
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from t5x_lite.data import randomness, sentences
from t5x_lite.errors import ConfigError

# B rows, L tokens of a row.

SPECIAL = 3  # [CLS] A [SEP] B [SEP]
BLOCK = 256  # chunks whose random numbers are drawn at once
SAME = 100  # copies of one document, and no other, that are waited for


class Pairs(NamedTuple):
    """Rows `[CLS] A [SEP] B [SEP]`: tokens and types int32 [B, L], lengths and labels int32 [B].

    `types` is 0 up to and including the first SEP, then 1, and 0 again on padding.
    """

    tokens: np.ndarray
    types: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray


class Draws(NamedTuple):
    """The random numbers of a chunk, each in [0, 1)."""

    short: float  # is its target a short one?
    target: float  # the short target
    cut: float  # sentences of A
    other: float  # is B random, are the two swapped?
    document: float  # where a random B is from
    sentence: float  # the sentence with which it starts
    first: float  # how many of A's tokens too many go from its front
    second: float  # and of B's


class Document(NamedTuple):
    """Tokens, and the place after each sentence."""

    tokens: np.ndarray
    ends: list[int]

    def start(self, sentence: int) -> int:
        return self.ends[sentence - 1] if sentence else 0

    def slice(self, first: int, stop: int) -> np.ndarray:
        """The tokens of sentences `first` to `stop - 1`."""
        return self.tokens[self.start(first) : self.ends[stop - 1]]

    def reach(self, first: int, tokens: int) -> int:
        """The sentence after those that from `first` on, one or more, have so many tokens."""
        last = bisect_left(self.ends, self.start(first) + tokens, first)
        return min(last + 1, len(self.ends))


class _PairCutter:
    """Chunks of a document's sentences, each cut in two at the end of a sentence.

    A chunk takes sentences until it has its target of tokens: length - 3, with probability
    `short_share` a number uniform in [2, length - 3], drawn for each chunk. A is a uniform number
    of its sentences, at least one and not all. Two sides of more than length - 3 tokens lose one at
    a time from the longer (B on a tie), at its front or back with probability 0.5.

    Sentences of fewer than `min_tokens` go with their neighbour. `dropped` counts documents without
    a sentence and chunks that make no pair. Source: Devlin et al. 2018; google-research/bert,
    `create_pretraining_data.py` (which draws the target once for a document).
    """

    def __init__(self, length, vocabulary, seed=(), *, short_share=0.1, min_tokens=4):
        self._length, self._most, self._vocabulary = length, length - SPECIAL, vocabulary
        self._table = sentences.marks(vocabulary)
        self._seed, self._short_share, self._min_tokens = tuple(seed), short_share, min_tokens
        self._chunk, self._block = 0, ()
        self._rows = deque()  # (tokens of A, tokens of B, label)
        self.dropped = 0

    def add(self, example: Mapping[str, np.ndarray]) -> None:
        tokens = np.asarray(example['targets'], np.int32)
        tokens, lengths = sentences.split(tokens, self._table, self._min_tokens)
        if len(lengths):
            self._receive(Document(tokens, np.cumsum(lengths).tolist()))
        else:
            self.dropped += 1

    def ready(self) -> int:
        return len(self._rows)

    def take(self, count: int) -> Pairs:
        rows = [self._rows.popleft() for _ in range(count)]
        sizes_Bx2 = np.array([(len(a), len(b)) for a, b, _ in rows], np.int32).reshape(-1, 2)
        first_Bx1, second_Bx1 = np.split(sizes_Bx2, 2, axis=1)
        lengths_Bx1 = first_Bx1 + second_Bx1 + SPECIAL
        index_L = np.arange(self._length)
        sep_BxL = (index_L == first_Bx1 + 1) | (index_L == lengths_Bx1 - 1)
        text_BxL = (index_L > 0) & (index_L < lengths_Bx1) & ~sep_BxL
        tokens_BxL = np.zeros(text_BxL.shape, np.int32)
        tokens_BxL[text_BxL] = _joined([side for row in rows for side in row[:2]])
        tokens_BxL[:, 0], tokens_BxL[sep_BxL] = self._vocabulary.cls, self._vocabulary.sep
        types_BxL = (index_L > first_Bx1 + 1) & (index_L < lengths_Bx1)
        labels_B = np.array([row[2] for row in rows], np.int32)
        return Pairs(tokens_BxL, types_BxL.astype(np.int32), lengths_Bx1[:, 0], labels_B)

    def flush(self) -> None: ...  # rows are made when a document is added: nothing waits

    def state(self) -> dict[str, np.ndarray]:
        rows = [(len(a), len(b), label) for a, b, label in self._rows]
        return {
            'tokens': _joined([side for row in self._rows for side in row[:2]]),
            'rows': np.array(rows, np.int32).reshape(-1, 3),
            'chunk': np.int64(self._chunk),
            'dropped': np.int64(self.dropped),
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        rows = state['rows']
        sides = np.split(state['tokens'], np.cumsum(rows[:, :2])[:-1])
        self._rows = deque(zip(sides[::2], sides[1::2], rows[:, 2].tolist(), strict=False))
        self._chunk, self._block = int(state['chunk']), ()
        self.dropped = int(state['dropped'])

    def _receive(self, document: Document) -> None:
        """Makes rows of a document of one sentence or more."""
        self._cut(document)

    def _cut(self, document: Document, others: Sequence[Document] = ()) -> None:
        first = 0
        while first < len(document.ends):
            draws = self._draw()
            short = draws.short < self._short_share
            target = 2 + int(draws.target * (self._most - 1)) if short else self._most
            stop = document.reach(first, target)
            middle = first + 1 + int(draws.cut * (stop - first - 1))
            first = self._pair(document, (first, middle, stop), others, target, draws)

    def _pair(self, document, cuts, others, target, draws) -> int:
        """Makes a row of the sentences at `cuts`; says where the next chunk starts."""
        raise NotImplementedError

    def _draw(self) -> Draws:
        """The next chunk's numbers, a function of seed and chunk."""
        place = self._chunk % BLOCK
        if not self._block or not place:
            start, draws = self._chunk - place, len(Draws._fields)
            self._block = randomness.uniforms(self._seed, start, BLOCK, draws).tolist()
        self._chunk += 1
        return Draws(*self._block[place])

    def _put(self, a: np.ndarray, b: np.ndarray, label: int, draws: Draws) -> None:
        """Adds a row, its two sides shortened to fit."""
        if len(a) + len(b) > self._most:
            first, second = kept(len(a), len(b), self._most)
            a, b = _inner(a, first, draws.first), _inner(b, second, draws.second)
        self._rows.append((a, b, label))


class SentenceOrder(_PairCutter):
    """A and B follow each other; with probability 0.5 they are swapped, label 1.

    A chunk of one sentence makes no row and is counted in `dropped`. Source: Lan et al. 2019.
    """

    def _pair(self, document, cuts, others, target, draws) -> int:
        first, middle, stop = cuts
        if middle == stop:
            self.dropped += 1
            return stop
        a, b = document.slice(first, middle), document.slice(middle, stop)
        if draws.other < 0.5:
            self._put(b, a, 1, draws)
        else:
            self._put(a, b, 0, draws)
        return stop


class NextSentence(_PairCutter):
    """B is what follows A (label 0) or, with probability 0.5, text of another document (label 1).

    A chunk of one sentence always has a random B. It starts with a uniform sentence of a uniform
    one of the last `documents` other documents, and goes on until the chunk has its target. What
    was to follow A then starts the next chunk. Documents of the same tokens count as one, so that
    another epoch's copy is no negative.

    Raises:
      ConfigError: the first 100 documents, or all there are, are one and the same.
    """

    def __init__(self, length, vocabulary, seed=(), *, documents: int = 100, **settings):
        super().__init__(length, vocabulary, seed, **settings)
        self._size = documents
        self._recent: dict[bytes, Document] = {}  # by their tokens, the oldest first
        self._waiting = 0  # how often the first document came before there was another

    def _receive(self, document: Document) -> None:
        key = document.tokens.tobytes()
        self._recent.pop(key, None)
        others = list(self._recent.values())
        self._recent[key] = document
        if not others:
            self._waiting += 1
            if self._waiting == SAME:
                raise self._too_few(f'the first {SAME} documents are')
            return
        for _ in range(self._waiting):
            self._cut(others[0], [document])
        self._waiting = 0
        self._cut(document, others)
        if len(self._recent) > self._size:
            del self._recent[next(iter(self._recent))]

    def _pair(self, document, cuts, others, target, draws) -> int:
        first, middle, stop = cuts
        a = document.slice(first, middle)
        if middle == stop or draws.other < 0.5:
            self._put(a, _excerpt(others, target - len(a), draws), 1, draws)
            return middle
        self._put(a, document.slice(middle, stop), 0, draws)
        return stop

    def flush(self) -> None:
        if self._waiting:
            raise self._too_few('the data is')

    def _too_few(self, what: str) -> ConfigError:
        return ConfigError(
            f'nsp: {what} one document only, but a random sentence must be of another one; use a '
            'corpus of more documents, a smaller data_shards, or the objective sop'
        )

    def state(self) -> dict[str, np.ndarray]:
        ends = [np.array(document.ends, np.int32) for document in self._recent.values()]
        return super().state() | {
            'recent_tokens': _joined([document.tokens for document in self._recent.values()]),
            'recent_ends': _joined(ends),
            'recent_counts': np.array([len(e) for e in ends], np.int32),
            'waiting': np.int64(self._waiting),
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        super().restore(state)
        self._recent, start = {}, 0
        for ends in np.split(state['recent_ends'], np.cumsum(state['recent_counts'])[:-1]):
            if len(ends):
                tokens = np.array(state['recent_tokens'][start : start + ends[-1]])
                self._recent[tokens.tobytes()] = Document(tokens, ends.tolist())
                start += len(tokens)
        self._waiting = int(state['waiting'])


def _excerpt(documents: Sequence[Document], tokens: int, draws: Draws) -> np.ndarray:
    """Whole sentences of one of them from a uniform one on, of so many tokens or to its end."""
    document = documents[int(draws.document * len(documents))]
    first = int(draws.sentence * len(document.ends))
    return document.slice(first, document.reach(first, tokens))


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int32), *parts], dtype=np.int32)


def _inner(tokens: np.ndarray, size: int, draw: float) -> np.ndarray:
    """`size` tokens of a side after the others went one at a time from its front or its back."""
    start = front(len(tokens) - size, draw)
    return tokens[start : start + size]


def kept(first: int, second: int, most: int) -> tuple[int, int]:
    """Tokens of two sides if one at a time goes from the longer, the second on a tie.

    Example: 5 and 9 with at most 8 leave 4 and 4; with at most 7, 4 and 3.
    """
    excess = max(first + second - most, 0)
    apart = min(excess, abs(first - second))
    rest = excess - apart
    first, second = (first - apart, second) if first > second else (first, second - apart)
    return first - rest // 2, second - (rest + 1) // 2


def front(dropped: int, draw: float) -> int:
    """How many of `dropped` tokens go from the front, Binomial(dropped, 0.5), by one number."""
    if not dropped:
        return 0
    return min(int(np.searchsorted(_fair_coins(dropped), draw, side='right')), dropped)


@functools.lru_cache(maxsize=1024)
def _fair_coins(count: int) -> np.ndarray:
    """P(heads <= k) for k = 0, 1, .., count of so many fair coins."""
    logs = np.array([math.lgamma(k + 1) for k in range(count + 1)])
    return np.cumsum(np.exp(logs[-1] - logs - logs[::-1] - count * math.log(2)))
