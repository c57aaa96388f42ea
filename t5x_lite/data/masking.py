"""How masked LM chooses what it predicts: tokens, whole words, n-grams, spans, or entities."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from t5x_lite.data import noise
from t5x_lite.errors import ConfigError

# B rows, L tokens of a row, U units (words or entities) of a row, K units taken at once.
DEAD = 2.0  # a score above all uniform numbers: not to be chosen


class Choice(Protocol):
    """Chooses what is predicted: a frozen value, an argument of `mlm`.

    `features` are the annotations that it reads, int32 and as long as `targets` in each example;
    `numbers` how many uniform numbers per token it uses; `together` says that the tokens of a unit
    are masked, randomised or kept together.
    """

    features: tuple[str, ...]
    numbers: int
    together: bool

    def units(self, text: 'Text', budgets_B: np.ndarray, uniforms: Sequence) -> np.ndarray:
        """The unit of every predicted token, int [B, L]: where it begins; -1 if not predicted.

        Never more than `budgets_B` tokens of a row, and none that is special or padding. `uniforms`
        are `numbers` arrays [B, L]; a row's units depend on its own only.
        """


class Text(NamedTuple):
    """Rows as a choice sees them."""

    tokens_BxL: np.ndarray
    open_BxL: np.ndarray  # bool: may be predicted
    vocabulary: object  # a VocabularyInfo
    marks: Mapping[str, np.ndarray]  # annotations by feature, int32 [B, L], 0 where there is none


@dataclass(frozen=True)
class Tokens:
    """Single tokens, uniformly without replacement (Devlin et al. 2018)."""

    features: ClassVar[tuple[str, ...]] = ()
    numbers: ClassVar[int] = 1
    together: ClassVar[bool] = False

    def units(self, text: Text, budgets_B, uniforms) -> np.ndarray:
        counts_B = np.minimum(budgets_B, text.open_BxL.sum(1))
        chosen_BxL = noise.choose(np.where(text.open_BxL, uniforms[0], DEAD), counts_B)
        return np.where(chosen_BxL, np.arange(chosen_BxL.shape[1]), -1)


@dataclass(frozen=True)
class WholeWords:
    """Whole words in random order until the budget is met; one that would exceed it is skipped.

    So a row all of whose words exceed it has no prediction. Source: google-research/bert,
    `do_whole_word_mask`.
    """

    features: ClassVar[tuple[str, ...]] = ()
    numbers: ClassVar[int] = 1
    together: ClassVar[bool] = False

    def units(self, text: Text, budgets_B, uniforms) -> np.ndarray:
        words = group(word_starts(text), text.open_BxL)
        return words.spread(text.open_BxL, take(words, budgets_B, uniforms[0]))


@dataclass(frozen=True)
class Ngrams:
    """Runs of 1 to `most` whole words, n of them with probability proportional to 1/n.

    In random order of their first words; where n words would exceed the budget fewer are tried, and
    a run that meets a chosen word is skipped. Source: google-research/albert (Lan et al. 2019).
    """

    most: int = 3
    features: ClassVar[tuple[str, ...]] = ()
    numbers: ClassVar[int] = 2
    together: ClassVar[bool] = False

    def __post_init__(self):
        _check_most(self)

    def lengths(self, uniforms) -> np.ndarray:
        """How many words, by numbers in [0, 1)."""
        return _draw(1 / np.arange(1, self.most + 1), uniforms)

    def units(self, text: Text, budgets_B, uniforms) -> np.ndarray:
        words = group(word_starts(text), text.open_BxL)
        wanted_BxU = self.lengths(words.at_start(uniforms[1]))
        taken_BxU = take(words, budgets_B, uniforms[0], wanted_BxU, self.most)
        return words.spread(text.open_BxL, taken_BxU)


@dataclass(frozen=True)
class Spans:
    """Spans of whole words, of a geometric number of them, at most `most` (SpanBERT).

    The distribution is cut off at `most` and scaled to 1: p 0.2 and 10 have a mean of 3.8 words. A
    span begins at a uniform word and ends early before a chosen word, or where the budget ends.
    With `together` a span is masked (80 %), randomised (10 %) or kept (10 %) as a whole. SpanBERT's
    own code may cut the last word of the last span, and makes one of spans that touch. Source:
    Joshi et al. 2019.
    """

    p: float = 0.2
    most: int = 10
    together: bool = True
    features: ClassVar[tuple[str, ...]] = ()
    numbers: ClassVar[int] = 2

    def __post_init__(self):
        _check_most(self)
        if not 0 < self.p <= 1:
            raise ConfigError(f'Spans: p={self.p} must be in (0, 1]; try 0.2')

    def lengths(self, uniforms) -> np.ndarray:
        """How many words, by numbers in [0, 1)."""
        return _draw((1 - self.p) ** np.arange(self.most), uniforms)

    def units(self, text: Text, budgets_B, uniforms) -> np.ndarray:
        words = group(word_starts(text), text.open_BxL)
        wanted_BxU = self.lengths(words.at_start(uniforms[1]))
        taken_BxU = take(words, budgets_B, uniforms[0], wanted_BxU, self.most, cut=True)
        return words.spread(text.open_BxL, taken_BxU)


@dataclass(frozen=True)
class Entities:
    """Annotated entities as wholes, all other text by whole words: knowledge masking (ERNIE).

    Examples have a feature `entities`: 0 for no entity, else the entity's number in its text.
    Entities and words have equal chances. With `together` an entity or word is masked, randomised
    or kept as a whole; ERNIE's own code decides for each token. An entity's tokens stand together.
    Source: Sun et al. 2019 (ERNIE), without its phrases.
    """

    together: bool = True
    features: ClassVar[tuple[str, ...]] = ('entities',)
    numbers: ClassVar[int] = 1

    def units(self, text: Text, budgets_B, uniforms) -> np.ndarray:
        marks_BxL = text.marks['entities']
        before_BxL = np.pad(marks_BxL[:, :-1], ((0, 0), (1, 0)))
        words_BxL = word_starts(text) | ((before_BxL > 0) & text.open_BxL)
        starts_BxL = np.where(marks_BxL > 0, marks_BxL != before_BxL, words_BxL)
        units = group(starts_BxL, text.open_BxL)
        return units.spread(text.open_BxL, take(units, budgets_B, uniforms[0]))


def _check_most(choice) -> None:
    if type(choice.most) is not int or choice.most < 1:
        raise ConfigError(
            f'{type(choice).__name__}: most={choice.most!r} must be an integer of 1 or more; '
            f'try {type(choice).most}'
        )


def _draw(shares: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """1, 2, .. in proportion to `shares`."""
    edges = np.cumsum(shares)[:-1] / np.sum(shares)
    return np.searchsorted(edges, uniforms, side='right') + 1


@functools.cache
def _space(vocabulary) -> np.ndarray:
    """Ids of nothing but white space such as a newline, bool [V]: the next one begins a word."""
    return np.array([piece.isspace() or piece == '<0x0A>' for piece in vocabulary.pieces])


def word_starts(text: Text) -> np.ndarray:
    """Where words begin, bool [B, L]: by the vocabulary, after a special token, after a newline."""
    breaks_BxL = ~text.open_BxL | _space(text.vocabulary)[text.tokens_BxL]
    starts_BxL = text.vocabulary.starts_word[text.tokens_BxL]
    starts_BxL[:, 1:] |= breaks_BxL[:, :-1]
    starts_BxL[:, 0] = True
    return starts_BxL & text.open_BxL


class Units(NamedTuple):
    """A row's units: words or entities, in order; of size 0 where the row has fewer."""

    index_BxL: np.ndarray  # each token's unit, -1 before the first
    begins_BxU: np.ndarray
    sizes_BxU: np.ndarray  # tokens that may be predicted

    def at_start(self, values_BxL: np.ndarray) -> np.ndarray:
        """Each unit's value where it begins, [B, U]."""
        return np.take_along_axis(values_BxL, self.begins_BxU, axis=1)

    def spread(self, open_BxL: np.ndarray, leaders_BxU: np.ndarray) -> np.ndarray:
        """What `Choice.units` returns, by each unit's leader: the first one of its run, or -1."""
        begins_BxU = np.take_along_axis(self.begins_BxU, np.maximum(leaders_BxU, 0), axis=1)
        begins_BxU = np.where(leaders_BxU >= 0, begins_BxU, -1)
        index_BxL = np.maximum(self.index_BxL, 0)
        return np.where(open_BxL, np.take_along_axis(begins_BxU, index_BxL, axis=1), -1)


def group(starts_BxL: np.ndarray, open_BxL: np.ndarray) -> Units:
    """Units that begin at `starts_BxL`; each open token belongs to one."""
    rows, width = len(starts_BxL), max(1, int(starts_BxL.sum(1).max(initial=0)))
    index_BxL = np.cumsum(starts_BxL, axis=1) - 1
    flat_BxL = index_BxL + np.arange(rows)[:, None] * width
    sizes = np.bincount(flat_BxL[open_BxL], minlength=rows * width)
    begins = np.zeros(rows * width, np.int64)
    begins[flat_BxL[starts_BxL]] = np.nonzero(starts_BxL)[1]
    return Units(index_BxL, begins.reshape(rows, width), sizes.reshape(rows, width))


def take(
    units: Units, budgets_B, scores_BxL, wanted_BxU=None, most: int = 1, *, cut: bool = False
) -> np.ndarray:
    """Takes runs of units by rising score of the first until each row's budget of tokens is met.

    Returns the leader of each unit, int [B, U]: the first unit of the run it was taken in, -1 if it
    was not. Runs have as many units as `wanted_BxU` (of 1 to `most`; one if None), fewer where they
    would exceed the budget or a special token is in the way. One that meets a taken unit ends
    before it with `cut`, else it is skipped. Rows are independent of each other.
    """
    scores_BxU = np.where(units.sizes_BxU > 0, units.at_start(scores_BxL), DEAD)
    leaders_BxU = np.full(scores_BxU.shape, -1)
    left_B, largest = np.array(budgets_B), units.sizes_BxU.max(initial=0)
    row_B = np.arange(len(left_B))
    while True:
        if left_B.min(initial=largest) < largest:
            scores_BxU[units.sizes_BxU > left_B[:, None]] = DEAD
        first_B = scores_BxU.argmin(1)
        alive_B = scores_BxU[row_B, first_B] < DEAD
        rows, first = row_B[alive_B], first_B[alive_B]
        if len(rows) == 0:
            return leaders_BxU
        scores_BxU[rows, first] = DEAD  # whether or not it is taken
        members = first
        if most > 1:
            wanted_BxK = np.arange(most) < wanted_BxU[rows, first][:, None]
            run_BxK = _run(units, rows, first, left_B[rows], wanted_BxK)
            free_BxK = leaders_BxU[rows[:, None], _places(units, first, most)] < 0
            clear_BxK = np.logical_and.accumulate(free_BxK | ~run_BxK, axis=1)
            run_BxK &= clear_BxK if cut else clear_BxK[:, -1:]
            which, offsets = np.nonzero(run_BxK)
            rows, first, members = rows[which], first[which], first[which] + offsets
        leaders_BxU[rows, members] = first
        scores_BxU[rows, members] = DEAD
        np.subtract.at(left_B, rows, units.sizes_BxU[rows, members])


def _places(units: Units, first, most: int) -> np.ndarray:
    """The units first, first + 1, .., [B, K], none beyond the last."""
    return np.minimum(first[:, None] + np.arange(most), units.sizes_BxU.shape[1] - 1)


def _run(units: Units, rows, first, left, wanted_BxK: np.ndarray) -> np.ndarray:
    """Which of the wanted units from `first` on fit into `left` tokens that follow each other."""
    places_BxK = _places(units, first, wanted_BxK.shape[1])
    sizes_BxK = units.sizes_BxU[rows[:, None], places_BxK]
    begins_BxK = units.begins_BxU[rows[:, None], places_BxK]
    ends_BxK = np.cumsum(sizes_BxK, axis=1)
    adjoin_BxK = begins_BxK + sizes_BxK - begins_BxK[:, :1] == ends_BxK
    fit_BxK = wanted_BxK & adjoin_BxK & (sizes_BxK > 0) & (ends_BxK <= left[:, None])
    return np.logical_and.accumulate(fit_BxK, axis=1)


def shared_changes(
    units_BxL: np.ndarray, uniforms: Sequence[np.ndarray], mask_share: float, random_share: float
) -> np.ndarray:
    """Numbers [B, L] for `noise.replace_chosen` by which a unit's tokens are changed alike.

    `uniforms` are two arrays [B, L]: the first decides, where the unit begins; the second is each
    token's own and says which random one takes its place.
    """
    decide_BxL, draw_BxL = uniforms
    decision_BxL = np.take_along_axis(decide_BxL, np.maximum(units_BxL, 0), axis=1)
    random_BxL = (decision_BxL >= mask_share) & (decision_BxL < mask_share + random_share)
    return np.where(random_BxL, mask_share + random_share * draw_BxL, decision_BxL)
