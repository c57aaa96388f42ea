"""Trains WordPiece and byte-level BPE vocabularies with the ids every objective needs."""
# SPDX-License-Identifier: Apache-2.0

import collections
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from t5x_lite.data.tokenizer_vocabulary import TokenizerVocabulary, library
from t5x_lite.data.train_vocabulary import CONTROL
from t5x_lite.data.vocabularies import SENTINELS
from t5x_lite.errors import ConfigError

NAMES = {'pad': '[PAD]', 'eos': '</s>', 'unk': '[UNK]', 'cls': '[CLS]', 'sep': '[SEP]'}
NAMES |= {'mask': '[MASK]'}
FIRST = ('[PAD]', '</s>', '[UNK]', *CONTROL)
"""Ids 0, 1, 2, ...: the same places as in a SentencePiece vocabulary of `train_vocabulary`."""
LAST = tuple(f'<extra_id_{i}>' for i in reversed(range(SENTINELS)))


def wordpiece(texts: Iterable[str], size: int = 8064, lowercase: bool = False):
    """A WordPiece `TokenizerVocabulary` of `size` pieces and 128 sentinels, `<extra_id_0>` last.

    The same texts give the same pieces. Half of the pieces may be characters, the most frequent;
    a word with any other is unknown.

    Raises:
      ConfigError: no text, or too little for `size` pieces, or `size` too small.

    Source: Devlin et al. 2018, with pieces joined as in BPE (by count), as in the library.
    """
    tokenizers = library()
    normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase)
    words = _count(texts, normalizer, tokenizers.pre_tokenizers.BertPreTokenizer())
    inner = collections.Counter()
    outer = collections.Counter()
    for word, count in words.items():
        outer[word[0]] += count
        for char in word[1:]:
            inner['##' + char] += count
    # The library numbers '##x' in the order of a hash table, and pieces depend on it.
    letters = _most_frequent(outer + inner, (size - len(FIRST)) // 2)
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=[*FIRST, *letters],
        initial_alphabet=sorted(letter for letter in letters if len(letter) == 1),
        limit_alphabet=sum(len(letter) == 1 for letter in letters),
        show_progress=False,
    )
    model = tokenizers.models.WordPiece(unk_token='[UNK]', max_input_chars_per_word=100)
    learner = tokenizers.Tokenizer(model)
    learner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    ids = _learn(learner, trainer, words, size)
    ids |= {name: len(ids) + i for i, name in enumerate(LAST)}
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(ids, unk_token='[UNK]', max_input_chars_per_word=100)
    )
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = tokenizers.decoders.WordPiece()
    return _finish(tokenizer)


def _most_frequent(counts: collections.Counter, limit: int) -> list[str]:
    return sorted(counts, key=lambda char: (-counts[char], char))[: max(limit, 0)]
