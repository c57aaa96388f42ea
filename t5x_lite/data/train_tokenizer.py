"""Trains WordPiece and byte-level BPE vocabularies with the ids every objective needs."""
# SPDX-License-Identifier: Apache-2.0

import collections
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from t5x_lite.data.hf_files import library
from t5x_lite.data.train_vocabulary import CONTROL, EMPTY
from t5x_lite.data.vocabularies import SENTINELS
from t5x_lite.errors import ConfigError

NAMES = {'pad': '[PAD]', 'eos': '</s>', 'unk': '[UNK]'}
NAMES |= {'cls': '[CLS]', 'sep': '[SEP]', 'mask': '[MASK]'}
FIRST = ('[PAD]', '</s>', '[UNK]', *CONTROL)
"""The first ids, in the places that they have in a vocabulary of `train_vocabulary`."""
LAST = tuple(f'<extra_id_{i}>' for i in reversed(range(SENTINELS)))
COVERAGE = 0.9995
"""The share of a text's characters that WordPiece must know, as in SentencePiece."""
_PREFIX = '##'


def wordpiece(texts: Iterable[str], size: int = 8064, lowercase: bool = False):
    """A WordPiece `tokenizers.Tokenizer`: `size` pieces, 128 sentinels, `<extra_id_0>` the last.

    The same texts give the same pieces. It knows the most frequent characters, 99.95 % of the
    text or more; a word with another one is unknown.

    Raises:
      ConfigError: no text, or too little of it for `size` pieces, or `size` too small.

    Source: Devlin et al. 2018; pieces are merged by count, as in BPE.
    """
    words = _words(texts, lowercase)
    letters = _letters(words, size - len(FIRST))
    tokenizers = library()
    learner = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token='[UNK]'))
    learner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    alphabet = [letter for letter in letters if not letter.startswith(_PREFIX)]
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=size,
        # Letters too: else the library numbers them in the order of a hash table.
        special_tokens=[*FIRST, *letters],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    repeated = (' '.join(itertools.repeat(word, count)) for word, count in words.items())
    learner.train_from_iterator(repeated, trainer)
    pieces = _pieces(learner, size)
    model = tokenizers.models.WordPiece(
        {piece: i for i, piece in enumerate([*pieces, *LAST])},
        unk_token='[UNK]',
        max_input_chars_per_word=100,
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = _bert(lowercase)
    tokenizer.decoder = tokenizers.decoders.WordPiece()
    return _with_special_tokens(tokenizer)


def _bert(lowercase: bool):
    tokenizers = library()
    normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase)
    return normalizer, tokenizers.pre_tokenizers.BertPreTokenizer()


def _words(texts: Iterable[str], lowercase: bool) -> collections.Counter:
    """How often each word is there, in alphabetical order."""
    normalizer, pre_tokenizer = _bert(lowercase)
    counts = collections.Counter()
    for text in texts:
        split = pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))
        counts.update(word for word, _ in split)
    if not counts:
        raise ConfigError(EMPTY)
    return collections.Counter(dict(sorted(counts.items())))


def _letters(words: collections.Counter, room: int) -> list[str]:
    """The most frequent characters, with and without '##': at least `COVERAGE` of the text."""
    counts, inner = collections.Counter(), set()
    for word, count in words.items():
        inner.update(word[1:])
        for char in word:
            counts[char] += count
    letters, covered = [], 0
    for char in sorted(counts, key=lambda char: (-counts[char], char)):
        if covered >= COVERAGE * counts.total() and len(letters) + 2 > room // 2:
            break
        letters += [char, _PREFIX + char] if char in inner else [char]
        covered += counts[char]
    if len(letters) > room:
        least = len(letters) + len(FIRST)
        raise ConfigError(
            f'vocabulary: size={room + len(FIRST)} must be {least} or more for the letters of the '
            f'texts and {len(FIRST)} special tokens; try {2 * least}'
        )
    return letters


def byte_bpe(texts: Iterable[str], size: int = 8064):
    """A byte-level BPE `tokenizers.Tokenizer`: `size` pieces and 128 sentinels as `wordpiece`.

    The same texts give the same pieces. No text is unknown.

    Raises:
      ConfigError: no text, or too little of it for `size` pieces, or `size` too small.

    Source: Radford et al. 2019.
    """
    tokenizers = library()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    if size <= len(alphabet) + len(FIRST):
        raise ConfigError(
            f'vocabulary: size={size} must be more than {len(alphabet) + len(FIRST)}, the bytes '
            'and special tokens; try 8064'
        )
    texts = iter(texts)
    first = next((text for text in texts if text.strip()), None)
    if first is None:
        raise ConfigError(EMPTY)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(FIRST),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(itertools.chain([first], texts), trainer)
    _pieces(tokenizer, size)
    return _with_special_tokens(tokenizer)


def _pieces(tokenizer, size: int) -> list[str]:
    """The trained pieces in the order of their ids, if there are as many as asked for."""
    ids = tokenizer.get_vocab()
    if len(ids) < size:
        raise ConfigError(
            f'vocabulary: size={size} is too large for the texts, which give {len(ids)} pieces; '
            f'try {len(ids)}, or give more text'
        )
    return sorted(ids, key=ids.get)


def _with_special_tokens(tokenizer):
    tokenizer.add_special_tokens([*FIRST, *LAST])
    return tokenizer


def write(tokenizer, folder: str | Path) -> None:
    """Writes a tokenizer that was trained here as Hugging Face files, for `from_folder`.

    `tokenizer.json`, `tokenizer_config.json`, and `vocab.txt`, or `vocab.json` and `merges.txt`.

    Raises:
      ConfigError: `folder` cannot be made.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f'--to={folder}: must be a folder that can be made ({error}); name another'
        ) from error
    for name, text in _files(json.loads(tokenizer.to_str())):
        (folder / name).write_text(text, encoding='utf-8')
    (folder / 'tokenizer.json').write_text(tokenizer.to_str(pretty=True), encoding='utf-8')


def _files(state: dict) -> Iterator[tuple[str, str]]:
    model = state['model']
    config = {'tokenizer_class': 'PreTrainedTokenizerFast', 'clean_up_tokenization_spaces': False}
    config |= {f'{role}_token': name for role, name in NAMES.items()}
    config['additional_special_tokens'] = [*CONTROL[3:], *reversed(LAST)]
    ids = model['vocab'] | {token['content']: token['id'] for token in state['added_tokens']}
    pieces: Sequence[str] = sorted(ids, key=ids.get)
    if model['type'] == 'WordPiece':
        config['do_lower_case'] = state['normalizer']['lowercase']
        yield 'vocab.txt', ''.join(piece + '\n' for piece in pieces)
    else:
        ordered = {piece: ids[piece] for piece in pieces}
        yield 'vocab.json', json.dumps(ordered, ensure_ascii=False) + '\n'
        merges = (' '.join(pair) + '\n' for pair in model['merges'])
        yield 'merges.txt', '#version: 0.2\n' + ''.join(merges)
    yield 'tokenizer_config.json', json.dumps(config, ensure_ascii=False, indent=2) + '\n'
