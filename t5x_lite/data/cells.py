"""Rows of a batch as columns of cells: every token and number, with what it is."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from t5x_lite.data.vocabularies import VocabularyInfo

# B rows, L tokens of a row.

TEXT = 2000  # characters of a value that are kept
TOKENS = 200  # tokens of a task's feature that are kept
RUNS = 6  # runs of equal or counting values that are spelled out
INPUTS, TARGETS, WEIGHTS = '_input_tokens', '_target_tokens', '_loss_weights'
SEGMENTS, PREFIX = '_segment_ids', '_causal_attention'
NUMBERS = {WEIGHTS: 'weight', PREFIX: 'prefix', 'token_type_ids': 'type'}
MARKS = {'\n': '↵', '\t': '⇥', '\r': '␍'}


class Cell(NamedTuple):
    """What stands at one place of one array: its text, what it is, and the id if it is a token.

    Roles of tokens: text, pad, eos, unk, bos, cls, sep, mask, sentinel, mode, special (others),
    replaced (an input that is not what stood there), outside (no id of the vocabulary). Roles of
    numbers: off (0), weight, prefix, type, segment and next by turns, on (others); of the words
    that compare input with target: change.
    """

    text: str
    role: str
    id: int | None = None


class Column(NamedTuple):
    """One place of a row: a cell of each line, and what holds for the place."""

    cells: tuple[Cell, ...]
    scored: bool = False
    begins: bool = False  # a segment after the first begins here
    prefix: bool = False


class Group(NamedTuple):
    """Arrays of one row that stand beside each other, place by place.

    `lines` names the lines of the columns; `padding` places follow them; `summary` says in words
    what the arrays of numbers hold, those that have no line too: all equal, or positions.
    """

    name: str
    lines: tuple[str, ...]
    columns: tuple[Column, ...]
    padding: int
    summary: Mapping[str, str]


class Row(NamedTuple):
    """One row of a batch: groups of arrays, and in words every array that belongs to none."""

    groups: tuple[Group, ...]
    others: Mapping[str, str]


def tokens_of(name: str, ids: np.ndarray, vocabulary: VocabularyInfo) -> Group:
    """The first TOKENS ids of a feature: piece and id."""
    kinds = roles(vocabulary)
    cells = [_token(i, vocabulary, kinds) for i in ids[:TOKENS].tolist()]
    columns = tuple(Column((cell, Cell(str(cell.id), 'off'))) for cell in cells)
    more = {'and': f'{len(ids) - TOKENS:,} more tokens'} if len(ids) > TOKENS else {}
    return Group(name, ('piece', 'id'), columns, 0, more)


def roles(vocabulary: VocabularyInfo) -> list[str]:
    """What each id of the vocabulary is, [V]: the roles of `Cell`."""
    kinds = np.where(vocabulary.special, 'special', 'text').astype(object)
    kinds[list(vocabulary.sentinels)] = 'sentinel'
    kinds[list(vocabulary.modes.values())] = 'mode'
    for role in ('unk', 'bos', 'eos', 'cls', 'sep', 'mask', 'pad'):
        place = getattr(vocabulary, role)
        if place is not None and vocabulary.special[place]:
            kinds[place] = role
    return kinds.tolist()


def visible(text: str) -> str:
    """A text on one line that steers no terminal: what is not printable is written out."""
    out = (MARKS.get(c) or (c if c.isprintable() else repr(c)[1:-1]) for c in text)
    return ''.join(out)


def _token(id: int, vocabulary: VocabularyInfo, kinds: Sequence[str]) -> Cell:
    if not 0 <= id < vocabulary.size:
        return Cell(f'<id {id}>', 'outside', id)
    return Cell(visible(vocabulary.pieces[id]) or '∅', kinds[id], id)


def groups(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, list[str]]:
    """Names of a batch's arrays [B, L] by what stands before `_input_tokens` (encoder, decoder).

    An array goes with the longest such prefix of its name and of its length; one without a prefix,
    such as `token_type_ids`, with the first group of its length.
    """
    heads = {n.removesuffix(INPUTS): shapes[n] for n in shapes if n.endswith(INPUTS)}
    found = {head: [] for head in heads}
    for name, shape in shapes.items():
        named = [h for h in heads if name.startswith(f'{h}_')]
        fitting = [h for h in named or heads if heads[h] == shape]
        if fitting:
            found[max(fitting, key=len) if named else fitting[0]].append(name)
    order = (INPUTS, TARGETS, WEIGHTS)
    place = lambda name: next((i for i, end in enumerate(order) if name.endswith(end)), len(order))
    return {head: sorted(names, key=place) for head, names in found.items()}


def used(batch: Mapping[str, np.ndarray], head: str) -> np.ndarray:
    """Which places of a group are not padding, bool [B, L]: by its segments, or its tokens."""
    if f'{head}{SEGMENTS}' in batch:
        return batch[f'{head}{SEGMENTS}'] > 0
    inputs_BxL = batch[f'{head}{INPUTS}']
    return (inputs_BxL != 0) | (batch.get(f'{head}{TARGETS}', inputs_BxL) != 0)


def rows(batch: Mapping[str, Any], vocabulary: VocabularyInfo, count: int) -> tuple[Row, ...]:
    """The first `count` rows of a batch, whatever arrays its objective makes."""
    batch = {name: np.asarray(x) for name, x in batch.items()}
    grouped = groups({name: x.shape for name, x in batch.items()})
    kinds = roles(vocabulary)
    alone = [n for n in batch if not any(n in names for names in grouped.values())]
    in_place = {head: _in_place(batch, head) for head in grouped}
    token = lambda id: _token(id, vocabulary, kinds)
    out = []
    for b in range(min(count, len(next(iter(batch.values()))))):
        places = {head: np.flatnonzero(used(batch, head)[b]) for head in grouped}
        sizes = {head: int(p[-1]) + 1 if len(p) else 0 for head, p in places.items()}
        parts = []
        for head, names in grouped.items():
            arrays = {name: batch[name][b] for name in names}
            parts.append(_group(head, arrays, sizes[head], token, in_place[head]))
        out.append(Row(tuple(parts), {name: in_words(batch[name][b]) for name in alone}))
    return tuple(out)


def _in_place(batch: Mapping[str, np.ndarray], head: str) -> bool:
    """Whether a target stands where its input stands (masked LM), not one place before it."""
    if f'{head}{TARGETS}' not in batch:
        return False
    same_BxL = batch[f'{head}{INPUTS}'] == batch[f'{head}{TARGETS}']
    used_BxL = used(batch, head)
    return bool(used_BxL.any() and same_BxL[used_BxL].mean() >= 0.5)


def _group(head: str, arrays: Mapping[str, np.ndarray], size: int, token, in_place) -> Group:
    """The group of one row; `size` places are not padding, `token` makes an id a cell."""
    whole = len(arrays[f'{head}{INPUTS}'])
    kept = {name: x[:size] for name, x in arrays.items()}
    lines, summary = {}, {}
    for name, x in kept.items():
        if name.endswith('_tokens'):
            lines[name] = [token(id) for id in x.tolist()]
            continue
        summary[name] = in_words(arrays[name])
        if len(np.unique(x)) > 1 and not name.endswith('_positions'):
            lines[name] = [Cell(_plain(v), _role(name, v)) for v in x.tolist()]
    flags = {end: kept.get(f'{head}{end}', np.zeros(size)) for end in (WEIGHTS, SEGMENTS, PREFIX)}
    scored, begins = flags[WEIGHTS] > 0, np.diff(flags[SEGMENTS], prepend=flags[SEGMENTS][:1]) != 0
    if in_place:
        lines = _changes(lines, head, scored)
    flags = zip(scored.tolist(), begins.tolist(), (flags[PREFIX] > 0).tolist(), strict=True)
    columns = [Column(c, *f) for c, f in zip(zip(*lines.values(), strict=True), flags, strict=True)]
    return Group(head, tuple(lines), tuple(columns), whole - size, summary)


def _role(name: str, value: float) -> str:
    if not value:
        return 'off'
    if name.endswith(SEGMENTS):
        return 'segment' if value % 2 else 'next'
    return next((role for end, role in NUMBERS.items() if name.endswith(end)), 'on')


def _changes(lines: dict[str, list[Cell]], head: str, scored: np.ndarray) -> dict[str, list[Cell]]:
    """The lines with one more that says what was done to each scored or altered input."""
    inputs, targets = lines[f'{head}{INPUTS}'], lines[f'{head}{TARGETS}']
    words = []
    for i, (seen, true) in enumerate(zip(inputs, targets, strict=True)):
        if seen.id != true.id and seen.role != 'mask':
            inputs[i] = seen._replace(role='replaced')
        word = 'kept' if scored[i] else ''
        if seen.id != true.id:
            word = 'masked' if seen.role == 'mask' else 'replaced'
        words.append(Cell(word, 'change'))
    if not any(cell.text for cell in words):
        return lines
    first = f'{head}{INPUTS}', f'{head}{TARGETS}'
    rest = {name: line for name, line in lines.items() if name not in first}
    return {first[0]: inputs, first[1]: targets, 'what was done': words, **rest}


def _plain(value) -> str:
    return str(int(value)) if float(value).is_integer() else f'{value:.3g}'


def in_words(values: np.ndarray) -> str:
    """An array on one line: its runs of equal or counting values, or how much of it is not 0."""
    values = np.asarray(values)
    if values.dtype.kind not in 'iufb':
        return visible(str(values.tolist()))[:TEXT]
    if values.ndim == 0:
        return _plain(values)
    if values.ndim == 1:
        runs = list(_runs(values.tolist()))
        if len(runs) <= RUNS:
            return ', '.join(runs) or 'empty'
    if not values.size:
        return 'empty'
    shape = '' if values.ndim == 1 else f'{" x ".join(map(str, values.shape))}, '
    return (
        f'{shape}{np.count_nonzero(values):,} of {values.size:,} not 0, '
        f'from {_plain(values.min())} to {_plain(values.max())}'
    )


def _runs(values: list) -> Iterator[str]:
    """`1 x 62` for equal values, `0..61` for values that count up."""
    i = 0
    while i < len(values):
        equal = counting = i + 1
        while equal < len(values) and values[equal] == values[i]:
            equal += 1
        while counting < len(values) and values[counting] == values[counting - 1] + 1:
            counting += 1
        if counting - i > max(2, equal - i):
            yield f'{_plain(values[i])}..{_plain(values[counting - 1])}'
            i = counting
        else:
            yield _plain(values[i]) + (f' x {equal - i}' if equal - i > 1 else '')
            i = equal
