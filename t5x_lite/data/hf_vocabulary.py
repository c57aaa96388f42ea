"""Vocabularies from Hugging Face files: WordPiece, byte-level BPE, any tokenizer.json."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from pathlib import Path

import seqio

from t5x_lite.data import hf_files, vocabularies
from t5x_lite.data.sentencepiece_vocabulary import SentencePiece
from t5x_lite.data.tokenizer_vocabulary import TokenizerVocabulary
from t5x_lite.errors import ConfigError

_FILES = 'tokenizer.json, vocab.txt, vocab.json with merges.txt, spiece.model, one *.model'
_SENTINELS_OF_T5 = 100
_NOTHING_SAID = hf_files.Settings({}, (), {})


def wordpiece(
    path: str | Path,
    *,
    lowercase: bool,
    strip_accents: bool | None = None,
    split_chinese: bool = True,
    settings: hf_files.Settings = _NOTHING_SAID,
) -> TokenizerVocabulary:
    """BERT's WordPiece from its `vocab.txt`: words of over 100 characters are unknown.

    Args:
      path: the file, one piece a line.
      lowercase: True for a vocabulary of small letters.
      strip_accents: as `lowercase` if None.
      split_chinese: each ideograph is a word.
      settings: names of special tokens, where they are not BERT's.

    Raises:
      ConfigError: the file is missing, names a piece twice or has no piece for the unknown.

    Source: Devlin et al. 2018.
    """
    tokenizers = hf_files.library()
    unk = settings.names.get('unk') or '[UNK]'
    ids = hf_files.word_pieces(path, unk)
    model = tokenizers.models.WordPiece(ids, unk_token=unk, max_input_chars_per_word=100)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
        handle_chinese_chars=split_chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = tokenizers.decoders.WordPiece()
    return _finish(tokenizer, settings)


def byte_bpe(
    vocab: str | Path,
    merges: str | Path,
    *,
    add_prefix_space: bool = False,
    settings: hf_files.Settings = _NOTHING_SAID,
) -> TokenizerVocabulary:
    """GPT-2's byte-level BPE (RoBERTa's too) from its `vocab.json` and `merges.txt`.

    Raises:
      ConfigError: a file is missing or malformed, or they do not belong together.

    Source: Radford et al. 2019.
    """
    tokenizers = hf_files.library()
    ids, pairs = hf_files.byte_pieces(vocab), hf_files.merges(merges)
    for pair in pairs:
        missing = [piece for piece in (*pair, ''.join(pair)) if piece not in ids]
        if missing:
            raise ConfigError(
                f'vocabulary file {merges}: merges {" and ".join(pair)}, but {vocab} has no piece '
                f'{missing[0]!r}; name the two files of one vocabulary'
            )
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(ids, pairs))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return _finish(tokenizer, settings)


def tokenizer_json(
    path: str | Path,
    *,
    settings: hf_files.Settings = _NOTHING_SAID,
) -> TokenizerVocabulary:
    """Whatever a `tokenizer.json` describes.

    Raises:
      ConfigError: the file is missing, or not what the tokenizers library reads.
    """
    tokenizers = hf_files.library()
    hf_files.mapping(path)
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ConfigError(
            f'vocabulary file {path}: tokenizers {tokenizers.__version__} cannot read it: {error}; '
            'restore it, or write it again with that version'
        ) from error
    return _finish(tokenizer, settings)


def _finish(tokenizer, settings: hf_files.Settings) -> TokenizerVocabulary:
    """Finds the special tokens by name and makes those that are not there, as transformers does."""
    known = tokenizer.get_vocab(with_added_tokens=True)
    names = hf_files.roles(settings.names, {*known, *(t['content'] for _, t in settings.added)})
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    listed = {token['content'] for _, token in settings.added}
    named = [name for name in names.values() if name is not None and name not in listed]
    marks = [name for name in known if _is_mark(name) and name not in listed]
    marks.sort(key=known.get)
    for id, token in (*settings.added, *((None, {'content': name}) for name in named + marks)):
        if token['content'] in added:
            continue
        added.add(token['content'])
        _add(tokenizer, token)
        found = tokenizer.token_to_id(token['content'])
        if id is not None and id != found:
            raise ConfigError(
                f'vocabulary: token {token["content"]!r} has id {id} in tokenizer_config.json or '
                f'added_tokens.json, but {found} by the vocabulary; take all files from one model'
            )
    return TokenizerVocabulary(tokenizer, names)


def _is_mark(name: str) -> bool:
    return vocabularies.is_sentinel(name) or name in vocabularies.MODES


def _add(tokenizer, token: Mapping) -> None:
    fields = ('content', 'single_word', 'lstrip', 'rstrip', 'normalized', 'special')
    kept = {'special': True} | {name: token[name] for name in fields if name in token}
    kept.setdefault('normalized', not kept['special'])
    tokenizer.add_tokens([hf_files.library().AddedToken(**kept)])


def from_folder(path: str | Path) -> seqio.Vocabulary:
    """The vocabulary of a folder of Hugging Face files: the same ids as transformers gives.

    Taken is the first that is there: `tokenizer.json`; `vocab.txt` (WordPiece); `vocab.json` with
    `merges.txt` (byte-level BPE); `spiece.model` or the only `*.model` (SentencePiece of T5's
    kind); or no file, if `tokenizer_config.json` says ByT5. Names of special tokens, lower case and
    sentinels are read from the folder's other files.

    Raises:
      ConfigError: none of these is there, or a file cannot be read.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ConfigError(
            f'vocabulary folder {folder}: must be a folder; name the one with {_FILES}'
        )
    settings = hf_files.settings(folder)
    if (folder / 'tokenizer.json').exists():
        return tokenizer_json(folder / 'tokenizer.json', settings=settings)
    if (folder / 'vocab.txt').exists():
        return _bert(folder / 'vocab.txt', settings)
    if (folder / 'vocab.json').exists() and (folder / 'merges.txt').exists():
        prefix = bool(settings.options.get('add_prefix_space'))
        files = folder / 'vocab.json', folder / 'merges.txt'
        return byte_bpe(*files, add_prefix_space=prefix, settings=settings)
    if str(settings.options.get('tokenizer_class')) == 'ByT5Tokenizer':
        return seqio.ByteVocabulary(extra_ids=_sentinels(settings, 125))
    models = sorted(folder.glob('*.model'))
    models = [file for file in models if file.name == 'spiece.model'] or models
    if len(models) != 1:
        found = ', '.join(sorted(file.name for file in folder.iterdir())) or 'nothing'
        raise ConfigError(
            f'vocabulary folder {folder}: holds none of {_FILES}, but {found}; '
            'copy the tokenizer files of the model there'
        )
    return _sentencepiece(models[0], settings)


def _bert(path: Path, settings: hf_files.Settings) -> TokenizerVocabulary:
    options = settings.options
    lowercase = options.get('do_lower_case')
    if lowercase is None:  # transformers takes True; a vocabulary with capitals is not for that
        pieces = hf_files.word_pieces(path, settings.names.get('unk') or '[UNK]')
        lowercase = not any(piece[:1].isupper() for piece in pieces)
    return wordpiece(
        path,
        lowercase=lowercase,
        strip_accents=options.get('strip_accents'),
        split_chinese=options.get('tokenize_chinese_chars', True),
        settings=settings,
    )


def _sentencepiece(path: Path, settings: hf_files.Settings) -> seqio.SentencePieceVocabulary:
    kind = str(settings.options.get('tokenizer_class', 'T5Tokenizer')).removesuffix('Fast')
    if kind not in ('T5Tokenizer', 'MT5Tokenizer'):
        raise ConfigError(
            f'vocabulary file {path}: {kind} may number the pieces in its own way; save its '
            'tokenizer.json beside it'
        )
    named = 'tokenizer_class' in settings.options
    extra_ids = _sentinels(settings, _SENTINELS_OF_T5 if named and kind == 'T5Tokenizer' else 0)
    vocabulary = SentencePiece(str(path), extra_ids=extra_ids)
    try:
        vocabulary.vocab_size  # noqa: B018  loads the file
    except Exception as error:  # TensorFlow's and SentencePiece's own, by what is wrong
        raise ConfigError(
            f'vocabulary file {path}: is no SentencePiece model ({error}); restore it'
        ) from error
    return vocabulary


def _sentinels(settings: hf_files.Settings, default: int) -> int:
    count = sum(vocabularies.is_sentinel(token['content']) for _, token in settings.added)
    said = settings.options.get('extra_ids')
    return (count or default) if said is None else max(said, count)  # ByT5 says 0 and lists 125
