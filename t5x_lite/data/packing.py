"""Cutters: documents in, rows of a fixed length out, with a position to save; and row framing."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from t5x_lite.data import sentences

# B rows, L tokens of a row.


class Rows(NamedTuple):
    """Rows of tokens, int32 [B, L] each.

    `segments` counts 1, 2, .. in each row, 0 is padding; `positions` restart in each segment.
    """

    tokens: np.ndarray
    segments: np.ndarray
    positions: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """How many tokens each row has, [B]."""
        return np.count_nonzero(self.segments, axis=1)


class Cutter(Protocol):
    """Makes rows of examples' `targets`. `dropped` counts what was too short to use."""

    dropped: int

    def add(self, example: Mapping[str, np.ndarray]) -> None: ...

    def ready(self) -> int:
        """How many rows can be taken now."""

    def take(self, count: int) -> Rows:
        """The next rows; `count` is at most `ready()`."""

    def flush(self) -> None:
        """Says that no example follows: a partial row becomes ready."""

    def state(self) -> dict[str, np.ndarray]:
        """What has been added and not yet taken, for `restore` of an equal cutter."""

    def restore(self, state: Mapping[str, np.ndarray]) -> None: ...


def under(state: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """The values of a saved state whose names begin with `kind`, without it."""
    return {name.removeprefix(kind): x for name, x in state.items() if name.startswith(kind)}


class Line:
    """Integers that wait in line: put at the end, taken from the front, joined only then."""

    def __init__(self, dtype):
        self._parts = [np.zeros(0, dtype)]
        self.size = 0

    def put(self, values) -> None:
        self._parts.append(np.asarray(values, self._parts[0].dtype))
        self.size += len(values)

    def joined(self) -> np.ndarray:
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0]

    def take(self, count: int) -> np.ndarray:
        values = self.joined()
        self._parts = [values[count:]]
        self.size = len(self._parts[0])
        return values[:count]


class _Lines:
    """Tokens and, beside them, `marks` of some kind that wait to become rows."""

    def __init__(self, length: int, min_tokens: int, marks):
        self._length, self._min_tokens = length, min_tokens
        self._tokens, self._marks = Line(np.int32), Line(marks)
        self._ended = False
        self.dropped = 0

    def flush(self) -> None:
        self._ended = True

    def state(self) -> dict[str, np.ndarray]:
        return {
            'tokens': self._tokens.joined().copy(),
            'marks': self._marks.joined().copy(),
            'ended': np.bool_(self._ended),
            'dropped': np.int64(self.dropped),
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self._tokens, self._marks = Line(np.int32), Line(state['marks'].dtype)
        self._tokens.put(state['tokens'])
        self._marks.put(state['marks'])
        self._ended = bool(state['ended'])
        self.dropped = int(state['dropped'])


class Concatenate(_Lines):
    """Documents joined and cut to exactly `length`: a document goes on in the next row.

    Args:
      length: tokens of a row; only the last row of the data may be shorter.
      eos: put after each document; None puts nothing.
      separate: each document is a segment; if False each row is one segment.
      min_tokens: a last row of fewer is dropped.
    """

    def __init__(self, length: int, eos: int | None, separate: bool, min_tokens: int = 1):
        super().__init__(length, min_tokens, bool)
        self._eos, self._separate = eos, separate

    def add(self, example: Mapping[str, np.ndarray]) -> None:
        tokens = example['targets']
        if len(tokens) == 0:
            self.dropped += 1
            return
        if self._eos is not None:
            tokens = np.append(tokens, self._eos)
        starts = np.zeros(len(tokens), bool)
        starts[0] = self._separate
        self._tokens.put(tokens)
        self._marks.put(starts)

    def ready(self) -> int:
        rows, rest = divmod(self._tokens.size, self._length)
        return rows + (self._ended and rest >= self._min_tokens)

    def flush(self) -> None:
        super().flush()
        self.dropped += 0 < self._tokens.size % self._length < self._min_tokens

    def take(self, count: int) -> Rows:
        size = count * self._length
        fold = lambda x: np.pad(x, (0, size - len(x))).reshape(count, self._length)
        used_BxL = np.arange(size).reshape(count, self._length) < self._tokens.size
        tokens_BxL, starts_BxL = fold(self._tokens.take(size)), fold(self._marks.take(size))
        index_L = np.arange(self._length, dtype=np.int32)
        starts_BxL = starts_BxL | (index_L == 0)
        begins_BxL = np.maximum.accumulate(np.where(starts_BxL, index_L, 0), axis=1)
        segments_BxL = np.cumsum(starts_BxL, axis=1, dtype=np.int32)
        return Rows(tokens_BxL, segments_BxL * used_BxL, (index_L - begins_BxL) * used_BxL)


class _Pieces(_Lines):
    """Pieces of documents of up to `length` tokens, one per row."""

    def __init__(self, length: int, min_tokens: int):
        super().__init__(length, min_tokens, np.int32)

    def ready(self) -> int:
        return self._marks.size

    def take(self, count: int) -> Rows:
        lengths_B = self._marks.take(count)
        segments_BxL, positions_BxL = extents(lengths_B, self._length)
        tokens_BxL = np.zeros_like(segments_BxL)
        tokens_BxL[segments_BxL > 0] = self._tokens.take(int(lengths_B.sum()))
        return Rows(tokens_BxL, segments_BxL, positions_BxL)


class Chunks(_Pieces):
    """Every document cut into chunks of `length`, one per row; a shorter last chunk too.

    A last chunk of fewer than `min_tokens` is dropped.
    """

    def __init__(self, length: int, min_tokens: int = 2):
        super().__init__(length, min_tokens)

    def add(self, example: Mapping[str, np.ndarray]) -> None:
        tokens = example['targets']
        chunks, rest = divmod(len(tokens), self._length)
        lengths = [self._length] * chunks
        if rest >= self._min_tokens:
            lengths.append(rest)
        elif rest or not chunks:
            self.dropped += 1
        self._tokens.put(tokens[: sum(lengths)])
        self._marks.put(lengths)


class Fronts(_Pieces):
    """One row per example: the first `length` tokens of one feature, of which there may be none."""

    def __init__(self, length: int, feature: str = 'targets'):
        super().__init__(length, 0)
        self._feature = feature

    def add(self, example: Mapping[str, np.ndarray]) -> None:
        tokens = example[self._feature][: self._length]
        self._tokens.put(tokens)
        self._marks.put([len(tokens)])


class Documents(Chunks):
    """Every document with EOS after it, cut into chunks of `length`, one per row."""

    def __init__(self, length: int, eos: int):
        super().__init__(length, min_tokens=1)
        self._eos = eos

    def add(self, example: Mapping[str, np.ndarray]) -> None:
        tokens = example['targets']
        super().add({'targets': np.append(tokens, self._eos) if len(tokens) else tokens})


class Sentences(_Pieces):
    """Every document's sentences, one per row, of at most `length` tokens: the rest is left out.

    Sentences of fewer than `min_tokens` go with their neighbour; a document of fewer is dropped.
    """

    def __init__(self, length: int, vocabulary, min_tokens: int = 4):
        super().__init__(length, min_tokens)
        self._table = sentences.marks(vocabulary)

    def add(self, example: Mapping[str, np.ndarray]) -> None:
        tokens, lengths = sentences.split(example['targets'], self._table, self._min_tokens)
        self.dropped += not len(lengths)
        begins = np.cumsum(lengths) - lengths
        place = np.arange(len(tokens)) - np.repeat(begins, lengths)
        self._tokens.put(tokens[place < self._length])
        self._marks.put(np.minimum(lengths, self._length))


def extents(lengths_B: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Segments and positions, int32 [B, width], of rows that are one segment of so many tokens."""
    index_L = np.arange(width, dtype=np.int32)
    used_BxL = index_L < lengths_B[:, None]
    return used_BxL.astype(np.int32), index_L * used_BxL


def frame(rows: Rows, vocabulary) -> Rows:
    """Rows [B, L] of one segment as `[CLS] row [SEP]`, [B, L + 2]."""
    lengths_B = rows.lengths
    tokens_BxL = np.pad(rows.tokens, ((0, 0), (1, 1)))
    tokens_BxL[:, 0] = vocabulary.cls
    tokens_BxL[np.arange(len(lengths_B)), lengths_B + 1] = vocabulary.sep
    return Rows(tokens_BxL, *extents(lengths_B + 2, tokens_BxL.shape[1]))


def close(rows: Rows, eos: int, width: int) -> Rows:
    """Rows of one segment with EOS after each, [B, width]; no row has `width` tokens or more."""
    lengths_B = rows.lengths
    segments_BxL, positions_BxL = extents(lengths_B + 1, width)
    tokens_BxL = np.zeros_like(segments_BxL)
    used = min(width, rows.tokens.shape[1])
    tokens_BxL[:, :used] = rows.tokens[:, :used]
    tokens_BxL[np.arange(len(lengths_B)), lengths_B] = eos
    return Rows(tokens_BxL, segments_BxL, positions_BxL)


def shift_right(rows: Rows, vocabulary) -> np.ndarray:
    """Decoder inputs [B, L]: in each segment BOS (pad if there is none), then all but the last."""
    previous_BxL = np.pad(rows.tokens[:, :-1], ((0, 0), (1, 0)))
    shifted_BxL = np.where(rows.positions == 0, np.int32(vocabulary.start), previous_BxL)
    return np.where(rows.segments > 0, shifted_BxL, 0)


def decoder_spec(length: int, *more: str) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shapes and types of a row of a decoder's batch; `more` are further arrays of int32."""
    names = ('input_tokens', 'target_tokens', 'segment_ids', 'positions', *more)
    spec = {f'decoder_{name}': ((length,), np.int32) for name in names}
    return spec | {'decoder_loss_weights': ((length,), np.float32)}


def seq2seq_spec(inputs: int, targets: int) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shapes and types of a row of an encoder-decoder's batch."""
    names = ('input_tokens', 'segment_ids', 'positions')
    return {f'encoder_{name}': ((inputs,), np.int32) for name in names} | decoder_spec(targets)


def seq2seq_batch(encoder: Rows, decoder: Rows, weights_BxL, vocabulary) -> dict[str, np.ndarray]:
    """The arrays of `seq2seq_spec`: the encoder reads rows, the decoder writes rows."""
    return {
        'encoder_input_tokens': encoder.tokens,
        'encoder_segment_ids': encoder.segments,
        'encoder_positions': encoder.positions,
        'decoder_input_tokens': shift_right(decoder, vocabulary),
        'decoder_target_tokens': decoder.tokens,
        'decoder_loss_weights': weights_BxL,
        'decoder_segment_ids': decoder.segments,
        'decoder_positions': decoder.positions,
    }
