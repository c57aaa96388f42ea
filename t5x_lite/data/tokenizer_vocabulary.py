"""A tokenizer of the tokenizers library as a seqio vocabulary that runs in tf.data."""
# SPDX-License-Identifier: Apache-2.0

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import seqio
import tensorflow as tf

from t5x_lite.data import hf_pieces, vocabularies


class TokenizerVocabulary(seqio.Vocabulary):
    """A `tokenizers.Tokenizer` as a seqio vocabulary; `info` describes it.

    Encoding adds no special token. One that is written out in a text is read as that token, as
    transformers does. In tf.data it runs as a stateless function, so that positions can be saved.

    Args:
      tokenizer: settings for padding and truncation are dropped from it.
      names: the name of each role's token (bos, eos, unk, sep, pad, cls, mask), where it has one.
    """

    def __init__(self, tokenizer, names: Mapping[str, str | None]):
        super().__init__()
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer, self._names = tokenizer, dict(names)

    @functools.cached_property
    def info(self) -> vocabularies.VocabularyInfo:
        pieces = hf_pieces.pieces(self._tokenizer)
        ids = dict.fromkeys(('pad', 'eos', 'unk', 'bos'))
        for role, name in self._names.items():
            ids[role] = None if name is None else self._tokenizer.token_to_id(name)
        return vocabularies.build(
            [piece.piece for piece in pieces],
            [piece.control for piece in pieces],
            ids,
            widths=[piece.width for piece in pieces],
            starts_word=[piece.starts_word for piece in pieces],
            decoder=functools.partial(self._tokenizer.decode, skip_special_tokens=False),
        )

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json, and tokenizer_config.json with the names of special tokens."""
        (folder / 'tokenizer.json').write_text(self._tokenizer.to_str(), encoding='utf-8')
        names = {f'{role}_token': name for role, name in self._names.items()}
        fields = {'tokenizer_class': 'PreTrainedTokenizerFast', **names}
        text = json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + '\n'
        (folder / 'tokenizer_config.json').write_text(text, encoding='utf-8')

    def __eq__(self, other) -> bool:
        return (
            isinstance(other, TokenizerVocabulary)
            and self._names == other._names
            and self._tokenizer.to_str() == other._tokenizer.to_str()
        )

    def __reduce__(self):
        return type(self), (self._tokenizer, self._names)

    @property
    def pad_id(self) -> int:
        return self.info.pad

    @property
    def eos_id(self) -> int | None:
        return self.info.eos

    @property
    def bos_id(self) -> int | None:
        return self.info.bos

    @property
    def unk_id(self) -> int | None:
        return self.info.unk

    @property
    def _base_vocab_size(self) -> int:
        return self.info.size

    def _encode(self, s: str) -> list[int]:
        # The batch call leaves out what ids do not need: a quarter faster than `encode`.
        return self._tokenizer.encode_batch_fast([s], add_special_tokens=False)[0].ids

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
        """Ids [n] of a text, or ragged ids [B, n] of texts [B]."""
        s = tf.convert_to_tensor(s)
        if s.shape.rank == 0:
            ids = tf.numpy_function(self._encode_bytes, [s], tf.int32, stateful=False)
            return tf.ensure_shape(ids, [None])
        types = [tf.int32, tf.int64]
        ids, lengths = tf.numpy_function(self._encode_all, [s], types, stateful=False)
        return tf.RaggedTensor.from_row_lengths(
            tf.ensure_shape(ids, [None]), tf.ensure_shape(lengths, [None])
        )

    def _encode_bytes(self, text: bytes | np.ndarray) -> np.ndarray:
        if isinstance(text, np.ndarray):  # of rank 0, outside of datasets
            text = text.item()
        return np.array(self._encode(text.decode(errors='replace')), np.int32)

    def _encode_all(self, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = [self._encode_bytes(text) for text in texts]
        return np.concatenate([np.zeros(0, np.int32), *rows]), np.array([*map(len, rows)], np.int64)

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        """The text [] of ids [n], or the texts [B] of ids [B, n]."""

        def decode(ids: np.ndarray) -> bytes | np.ndarray:
            rows = [self._decode(row).encode() for row in np.atleast_2d(ids)]
            return np.array(rows, object) if ids.ndim == 2 else rows[0]

        text = tf.numpy_function(decode, [ids], tf.string, stateful=False)
        return tf.ensure_shape(text, ids.shape[:-1])
