"""The bundled vocabulary, and what converters and evaluators know about any vocabulary."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
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
NAMES = {'cls': ('[CLS]', '<cls>'), 'sep': ('[SEP]', '<sep>'), 'mask': ('[MASK]', '<mask>')}
"""What the tokens that open, end and mask a row are called."""


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
      starts_word: bool [V]; a word begins with this id, as does the first one of a row: the piece
        begins with white space, or, in WordPiece, has no '##'. False where special.
      decoder: text of ordinary and special ids, where that is more than their pieces joined.
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
    starts_word: np.ndarray | None = None
    decoder: Callable[[list[int]], str] | None = None

    def __post_init__(self):
        if self.starts_word is None:
            starts = np.array(
                [piece.startswith('▁') or piece[:1].isspace() for piece in self.pieces]
            )
            object.__setattr__(self, 'starts_word', starts & ~self.special)

    @property
    def start(self) -> int:
        """What a decoder's row begins with: BOS, or pad as in T5."""
        return self.pad if self.bos is None else self.bos

    def text(self, ids) -> str:
        """The text of ids up to the first EOS; padding left out, special tokens by name.

        Where BOS is EOS (GPT-2), the first id may be it.
        """
        ids = [int(i) for i in ids]
        if ids[:1] == [self.eos] == [self.bos]:
            ids = ids[1:]
        if self.eos in ids:
            ids = ids[: ids.index(self.eos)]
        if self.special[self.pad]:  # else 0 is text: the vocabulary has no pad
            ids = [i for i in ids if i != self.pad]
        out = ''  # a model may have more rows than the vocabulary has ids
        for known, group in itertools.groupby(ids, lambda i: i < self.size):
            group = list(group)
            out += self._known(group) if known else ''.join(f'<id {i}>' for i in group)
        return out

    def _known(self, ids: list[int]) -> str:
        if self.decoder:
            return self.decoder(ids)
        return b''.join(_bytes(self.pieces[i]) for i in ids).decode(errors='replace')


def bundled() -> seqio.SentencePieceVocabulary:
    """The shipped vocabulary: 8064 pieces and 128 sentinels, `<extra_id_0>` = 8191.

    It loses nothing but U+2581, SentencePiece's mark for a space, which decodes as a space.
    """
    from t5x_lite.data.sentencepiece_vocabulary import SentencePiece

    return SentencePiece(str(corpora.CORPUS_EN_PD / 'vocabulary.model'), extra_ids=SENTINELS)


def describe(vocabulary: seqio.Vocabulary) -> VocabularyInfo:
    """The numbers of a vocabulary, computed once.

    Known are `seqio.SentencePieceVocabulary`, `seqio.ByteVocabulary`, and any that describes itself
    by an attribute `info`, as those of `hf_vocabulary` do.

    Raises:
      ConfigError: another kind of vocabulary.
    """
    import seqio

    if isinstance(getattr(vocabulary, 'info', None), VocabularyInfo):
        return vocabulary.info
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
        return _describe_model(vocabulary.sp_model)
    if isinstance(vocabulary, seqio.ByteVocabulary):
        return _describe_bytes(vocabulary.extra_ids)
    raise ConfigError(
        f'vocabulary {type(vocabulary).__name__}: its pieces are not known; '
        'use seqio.SentencePieceVocabulary, seqio.ByteVocabulary or t5x_lite.data.hf_vocabulary'
    )


@functools.cache
def _describe_model(model: bytes) -> VocabularyInfo:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = range(processor.get_piece_size())
    pieces = [processor.id_to_piece(i) for i in ids]
    ends = {
        'pad': _present(processor.pad_id()),
        'eos': _present(processor.eos_id()),
        'unk': _present(processor.unk_id()),
        'bos': _present(processor.bos_id()),
    }
    control = [
        processor.is_control(i) or processor.is_unknown(i) or processor.is_unused(i) for i in ids
    ]
    starts = processor.encode('a', out_type=str)[0].startswith('▁')
    return build(pieces, control, ends, decoder=_drop_first_space(pieces) if starts else None)


def _drop_first_space(pieces: Sequence[str]) -> Callable[[list[int]], str]:
    """A decoder for models that put a space before every text, as T5's does."""

    def decode(ids: list[int]) -> str:
        text = b''.join(_bytes(pieces[i]) for i in ids).decode(errors='replace')
        return text.removeprefix(' ')

    return decode


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
    return build(pieces, control, {'pad': 0, 'eos': 1, 'unk': 2, 'bos': None})


def build(
    pieces: Sequence[str],
    control: Sequence[bool],
    ids: Mapping[str, int | None],
    *,
    widths: Sequence[int] | None = None,
    starts_word: Sequence[bool] | None = None,
    decoder: Callable[[list[int]], str] | None = None,
) -> VocabularyInfo:
    """The description of a vocabulary of `pieces`, [V].

    Args:
      control: [V]; special for other reasons than being one of the ids that are named.
      ids: pad, eos, unk, bos, and perhaps cls, sep, mask, which are found by name if absent.
      widths: [V] bytes of text; those of the pieces if None.
    """
    place = {piece: i for i, piece in enumerate(pieces)}
    first = lambda names: next((place[name] for name in names if name in place), None)
    ids = {role: first(names) for role, names in NAMES.items()} | dict(ids)
    modes = {name: place[name] for name in MODES if name in place}
    sentinels = _sentinels(pieces)
    special = np.array(control, bool)
    special[[i for i in (*ids.values(), *modes.values(), *sentinels) if i is not None]] = True
    if ids['pad'] is None:
        ids['pad'] = 0
    if widths is None:
        widths = [len(_bytes(piece)) for piece in pieces]
    info = VocabularyInfo(
        size=len(pieces),
        **ids,
        sentinels=sentinels,
        modes=modes,
        special=special,
        bytes_per_token=np.where(special, 0, np.asarray(widths, np.int32)),
        pieces=tuple(pieces),
        starts_word=None if starts_word is None else np.asarray(starts_word, bool) & ~special,
        decoder=decoder,
    )
    for shared in (info.special, info.bytes_per_token, info.starts_word):
        shared.flags.writeable = False
    return info


def _sentinels(pieces: Sequence[str]) -> tuple[int, ...]:
    found = {int(m[1]): i for i, piece in enumerate(pieces) if (m := _SENTINEL.fullmatch(piece))}
    return tuple(found[k] for k in sorted(found))


def is_sentinel(name: str) -> bool:
    """Whether a token is called `<extra_id_0>`, `<extra_id_1>`, ..."""
    return _SENTINEL.fullmatch(name) is not None


def _bytes(piece: str) -> bytes:
    """What a piece stands for in UTF-8; a special piece stands for its own name."""
    if _BYTE.fullmatch(piece):
        return bytes([int(piece[3:5], 16)])
    return piece.replace('▁', ' ').encode()
