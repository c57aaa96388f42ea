"""Permuted LM: spans predicted in a random factorisation order, by query tokens (XLNet)."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from t5x_lite.data import packing
from t5x_lite.data.factorisation import Factorisation, Targets
from t5x_lite.errors import ConfigError
from t5x_lite.objective import Objective, Schedule, Term, encode
from t5x_lite.objectives.checks import check_ids, check_lengths
from t5x_lite.objectives.losses import TokenLoss

NOBODY = np.iinfo(np.int32).max  # the order of tokens that none sees


@dataclass(frozen=True, kw_only=True)
class PermutedLM:
    """Rows `[CLS] chunk [SEP]` of L tokens, the content, and T query tokens behind them.

    Which T = max(1, L // group) tokens are predicted, and in what order, says
    `data.factorisation.Factorisation`. XLNet's two streams share all parameters, so they are one
    row here: a query token is [MASK] (in place of XLNet's learned vector, so that it is [MASK]'s
    embedding that learns it) at the position of its target. Source: Yang et al. 2019, sections
    2.3 and 2.4.

    A token sees those of its segment whose `encoder_order` is at most its own `encoder_reach`:

    | token | order | reach | sees |
    |---|---|---|---|
    | not predicted | 0 | 0 | what is not predicted |
    | predicted with rank z | z | z | that, predicted ones of lower rank, itself |
    | query of rank z | highest | z - 1 | that, predicted ones of lower rank; nobody sees it |

    All ranks of a block of `perm_size` tokens are lower than the next block's: a predicted token
    sees all of the blocks before, and of those behind what is not predicted. With `hide_later` no
    token sees anything of a later block. XLNet has that between its halves, since there the first
    half's states are the memory of the next row; without a memory it has no use, but it is what
    that code's masks say. They also rank SEP and CLS, which here are seen by all, as the paper has
    it of what is not predicted.
    """

    group: int = 6
    longest_span: int = 5
    whole_words: bool = True
    perm_size: int | None = 256
    hide_later: bool = False
    features: ClassVar[tuple[str, ...]] = ('targets',)
    longest: ClassVar[int | None] = None

    def __post_init__(self):
        least = {'group': 2, 'longest_span': 1, 'perm_size': self.group}
        for field, smallest in least.items():
            value = getattr(self, field)
            if field == 'perm_size' and value is None:
                continue
            if type(value) is not int or value < smallest:
                rest = '; use None for whole rows' if field == 'perm_size' else ''
                raise ConfigError(
                    f'permuted_lm: {field}={value!r} must be an integer of {smallest} or more; '
                    f'try {getattr(PermutedLM, field)}{rest}'
                )

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        check_lengths('permuted_lm', lengths, {'targets': 4}, '[CLS], two tokens, [SEP]')
        if vocabulary is not None:
            check_ids('permuted_lm', vocabulary, 'cls', 'sep', 'mask')

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        shape = (lengths['targets'] + self._plan(lengths).targets,)
        return {
            'encoder_input_tokens': (shape, np.int32),
            'encoder_target_tokens': (shape, np.int32),
            'encoder_loss_weights': (shape, np.float32),
            'encoder_segment_ids': (shape, np.int32),
            'encoder_positions': (shape, np.int32),
            'encoder_order': (shape, np.int32),
            'encoder_reach': (shape, np.int32),
        }

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        return packing.Chunks(lengths['targets'] - 2)

    def draws(self, lengths: Mapping[str, int]) -> int:
        return self._plan(lengths).draws

    def batch(self, rows: packing.Rows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        rows, plan = packing.frame(rows, vocabulary), self._plan(lengths)
        special_BxL = vocabulary.special[rows.tokens]
        targets = plan.draw(
            (rows.segments > 0) & ~special_BxL,
            word_starts(rows.tokens, special_BxL, vocabulary),
            rows.lengths,
            uniforms,
        )
        joined = lambda content_BxL, query_BxT: np.concatenate(
            [content_BxL, np.where(targets.used, query_BxT, 0)], axis=1, dtype=np.int32
        )
        wanted_BxT = np.take_along_axis(rows.tokens, targets.places, axis=1)
        rank_BxL, base_BxL, base_BxT = self._orders(targets, plan, rows.tokens.shape[1])
        content_BxL = (rank_BxL + base_BxL) * rows.segments
        return {
            'encoder_input_tokens': joined(rows.tokens, vocabulary.mask),
            'encoder_target_tokens': joined(rows.tokens, wanted_BxT),
            'encoder_loss_weights': joined(0 * rows.tokens, 1).astype(np.float32),
            'encoder_segment_ids': joined(rows.segments, 1),
            'encoder_positions': joined(rows.positions, targets.places),
            'encoder_order': joined(content_BxL, NOBODY),
            'encoder_reach': joined(content_BxL, targets.ranks - 1 + base_BxT),
        }

    def _plan(self, lengths: Mapping[str, int]) -> Factorisation:
        return Factorisation(
            length=lengths['targets'],
            perm_size=self.perm_size,
            group=self.group,
            longest=self.longest_span,
            whole_words=self.whole_words,
        )

    def _orders(self, targets: Targets, plan: Factorisation, length: int):
        """Ranks of content tokens [B, L], 0 if not predicted, and what a block adds to an order."""
        rank_BxL = np.zeros((len(targets.places), length), np.int64)
        rows = np.nonzero(targets.used)[0]
        rank_BxL[rows, targets.places[targets.used]] = targets.ranks[targets.used]
        step = (plan.targets + 1) * self.hide_later  # more than any rank
        base_1xL = step * (np.arange(length)[None] // plan.width)
        return rank_BxL, base_1xL, step * (targets.places // plan.width)


def word_starts(tokens_BxL, special_BxL, vocabulary) -> np.ndarray:
    """Where words begin, bool [B, L]: also at each special token and behind it."""
    after_BxL = np.pad(special_BxL[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return vocabulary.starts_word[tokens_BxL] | special_BxL | after_BxL


def permuted_lm(
    *,
    group: int = 6,
    longest_span: int = 5,
    whole_words: bool = True,
    perm_size: int | None = 256,
    hide_later: bool = False,
    weight: float | Schedule = 1.0,
    head=None,
) -> Objective:
    """Permuted LM of an encoder on lengths {'targets': L}; the model's own logits, as in XLNet.

    XLNet's logits have a bias too; head=MaskedLMHead() has it, after a layer more. Positions must
    be Rope() or Learned(...), without a window: query tokens stand behind the text.
    """
    converter = PermutedLM(
        group=group,
        longest_span=longest_span,
        whole_words=whole_words,
        perm_size=perm_size,
        hide_later=hide_later,
    )
    term = Term(loss=TokenLoss(side='encoder'), weight=weight, head=head)
    return Objective(converter=converter, forward=encode, terms={'permuted_lm': term})
