"""The bundled vocabulary, and what converters and evaluators know about any vocabulary."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from t5x_lite.data import corpora
from t5x_lite.errors import ConfigError

if TYPE_CHECKING:
    import seqio

SENTINELS = 128
MODES = ('[NLU]', '[S2S]', '[NLG]')
"""UL2's mode tokens (Tay et al. 2022): regular, sequential, extreme denoising."""

_SENTINEL = re.compile('▁?<extra_id_([0-9]+)>')
_BYTE = re.compile('<0x[0-9A-F]{2}>')
_NAMES = {'cls': ('[CLS]', '<cls>'), 'sep': ('[SEP]', '<sep>'), 'mask': ('[MASK]', '<mask>')}


@dataclass(frozen=True, eq=False)
class VocabularyInfo:
    """A vocabulary as plain numbers: what NumPy code needs, without TensorFlow.

    Attributes:
      size: V, sentinels included.
      pad: id; 0, as in seqio, if the vocabulary does not say.
      eos, unk, bos, cls, sep, mask: ids, found by name; None where there is none.
      sentinels: ids of `<extra_id_0>`, `<extra_id_1>`, ...; at the end of the vocabulary in T5's
        order, so that they descend.
      modes: ids of UL2's mode tokens by name, those that exist.
      special: bool [V]; never masked, replaced or drawn: all of the above and control pieces.
        Bytes and newline are text, hence False.
      bytes_per_token: int32 [V]; bytes of UTF-8 text an id stands for, 0 where special.
      pieces: [V] strings, '▁' for a space and '<0x0A>' for a byte that is not a character.
    """

    size: int
    pad: int
    eos: int | None
    unk: int | None
    bos: int | None
    cls: int | None
    sep: int | None
    mask: int | None
    sentinels: tuple[int, ...]
    modes: Mapping[str, int]
    special: np.ndarray
    bytes_per_token: np.ndarray
    pieces: tuple[str, ...]

    def text(self, ids) -> str:
        """The text of ids up to the first EOS; padding left out, special tokens by name."""
        out = b''
        for id in ids:
            if id == self.eos:
                break
            if id != self.pad:  # a model may have more rows than the vocabulary has ids
                out += _bytes(self.pieces[id]) if id < self.size else f'<id {id}>'.encode()
        return out.decode(errors='replace')


def bundled() -> seqio.SentencePieceVocabulary:
    """The shipped vocabulary: 8064 pieces and 128 sentinels, `<extra_id_0>` = 8191.

    It loses nothing but U+2581, SentencePiece's mark for a space, which decodes as a space.
    """
    import seqio

    return seqio.SentencePieceVocabulary(
        str(corpora.CORPUS_EN_PD / 'vocabulary.model'), extra_ids=SENTINELS
    )


def describe(vocabulary: seqio.Vocabulary) -> VocabularyInfo:
    """The numbers of a `seqio.SentencePieceVocabulary` or `seqio.ByteVocabulary`, computed once.

    Raises:
      ConfigError: another kind of vocabulary.
    """
    import seqio

    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
        return _describe_model(vocabulary.sp_model)
    if isinstance(vocabulary, seqio.ByteVocabulary):
        return _describe_bytes(vocabulary.extra_ids)
    raise ConfigError(
        f'vocabulary {type(vocabulary).__name__}: its pieces are not known; '
        'use seqio.SentencePieceVocabulary or seqio.ByteVocabulary'
    )


@functools.cache
def _describe_model(model: bytes) -> VocabularyInfo:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = range(processor.get_piece_size())
    pieces = [processor.id_to_piece(i) for i in ids]
    ends = {
        'pad': max(processor.pad_id(), 0),
        'eos': _present(processor.eos_id()),
        'unk': _present(processor.unk_id()),
        'bos': _present(processor.bos_id()),
    }
    control = [
        processor.is_control(i) or processor.is_unknown(i) or processor.is_unused(i) for i in ids
    ]
    return _info(pieces, control, ends)


def _present(id: int) -> int | None:
    return id if id >= 0 else None  # SentencePiece says -1 where there is none


@functools.cache
def _describe_bytes(extra_ids: int) -> VocabularyInfo:
    """ByT5: pad, eos, unk, then byte b at b + 3, then sentinels (Xue et al. 2021)."""
    texts = [chr(b) if b < 128 else f'<0x{b:02X}>' for b in range(256)]
    texts[ord(' ')] = '▁'
    pieces = ['<pad>', '</s>', '<unk>', *texts]
    pieces += [f'<extra_id_{i}>' for i in reversed(range(extra_ids))]
    control = [i < 3 for i in range(len(pieces))]
    return _info(pieces, control, {'pad': 0, 'eos': 1, 'unk': 2, 'bos': None})


def _info(pieces: Sequence[str], control: Sequence[bool], ends: dict) -> VocabularyInfo:
    ids = {piece: i for i, piece in enumerate(pieces)}
    named = {
        field: next((ids[name] for name in names if name in ids), None)
        for field, names in _NAMES.items()
    }
    modes = {name: ids[name] for name in MODES if name in ids}
    sentinels = _sentinels(pieces)
    special = np.array(control, bool)
    known = [*ends.values(), *named.values(), *modes.values(), *sentinels]
    special[[i for i in known if i is not None]] = True
    widths = np.array([len(_bytes(piece)) for piece in pieces], np.int32)
    widths[special] = 0
    special.flags.writeable = widths.flags.writeable = False  # shared by all who ask
    return VocabularyInfo(
        size=len(pieces),
        **ends,
        **named,
        sentinels=sentinels,
        modes=modes,
        special=special,
        bytes_per_token=widths,
        pieces=tuple(pieces),
    )


def _sentinels(pieces: Sequence[str]) -> tuple[int, ...]:
    found = {int(m[1]): i for i, piece in enumerate(pieces) if (m := _SENTINEL.fullmatch(piece))}
    return tuple(found[k] for k in sorted(found))


def _bytes(piece: str) -> bytes:
    """What a piece stands for in UTF-8; a special piece stands for its own name."""
    if _BYTE.fullmatch(piece):
        return bytes([int(piece[3:5], 16)])
    return piece.replace('▁', ' ').encode()
