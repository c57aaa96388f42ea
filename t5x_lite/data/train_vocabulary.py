"""Trains a SentencePiece unigram vocabulary: lossless, with the ids every objective needs."""
# SPDX-License-Identifier: Apache-2.0

import io
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from t5x_lite.data import corpora
from t5x_lite.data.vocabularies import MODES
from t5x_lite.errors import ConfigError

CONTROL = ('[CLS]', '[SEP]', '[MASK]', *MODES)
"""Pieces that text can never produce."""
EMPTY = 'vocabulary: the training texts are empty; name files with text in them'


def train(texts: Iterable[str], path: str | Path, size: int = 8064) -> None:
    """Trains on `texts` and writes the model file to `path`; the same texts give the same bytes.

    The model loses nothing: no normalization, byte fallback, newline a piece of its own. Ids:
    pad 0, eos 1, unk 2, `CONTROL` from 3, then newline, 256 bytes, and the trained pieces.
    Sentinels are not in the file: load it with `seqio.SentencePieceVocabulary(extra_ids=...)`.

    Args:
      texts: documents.
      path: where the model goes.
      size: pieces in the file, sentinels not counted.

    Raises:
      ConfigError: no text, or too little of it for `size` pieces, or `size` too small.

    Source: unigram language model, Kudo 2018.
    """
    lines = (line for text in texts for line in text.split('\n') if line)
    first = next(lines, None)
    if first is None:
        raise ConfigError(EMPTY)
    model = _fit(itertools.chain([first], lines), size)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model)


def _fit(lines: Iterable[str], size: int) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type='unigram',
            vocab_size=size,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            control_symbols=list(CONTROL),
            user_defined_symbols=['\n'],
            byte_fallback=True,
            normalization_rule_name='identity',
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            max_sentence_length=1 << 20,  # the default drops lines over 4 kB
            num_threads=1,  # sums of floats, hence pieces, would depend on it
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ConfigError(
            f'vocabulary: size={size} does not suit the texts ({error}); '
            'give another size or more text'
        ) from error
    return model.getvalue()


def run(
    output: str | Path,
    inputs: Sequence[str | Path] = (),
    size: int = 8064,
    kind: str = 'sentencepiece',
    lowercase: bool = False,
) -> None:
    """`t5x-lite data vocab`: trains on files, or the bundled train split if none is named.

    Args:
      output: the model file of 'sentencepiece', the folder of the other kinds.
      inputs: JSON lines with a `text`, or `.txt` with a document on each line.
      size: pieces, sentinels not counted.
      kind: sentencepiece, wordpiece or bpe.
      lowercase: 'wordpiece' only.

    Raises:
      ConfigError: bad files or size; nothing is written.
    """
    if lowercase and kind != 'wordpiece':
        raise ConfigError(f'--lowercase: is for --kind=wordpiece, not {kind}; leave it out')
    files = inputs or [corpora.split_path('train')]
    texts = (text for path in files for text in corpora.texts(path))
    if kind == 'sentencepiece':
        _check_place(Path(output), Path.is_dir, 'file')
        train(texts, output, size)
        return
    _check_place(Path(output), Path.is_file, 'folder')
    from t5x_lite.data import train_tokenizer

    if kind == 'wordpiece':
        tokenizer = train_tokenizer.wordpiece(texts, size, lowercase)
    else:
        tokenizer = train_tokenizer.byte_bpe(texts, size)
    train_tokenizer.write(tokenizer, output)


def _check_place(output: Path, taken: Callable[[Path], bool], what: str) -> None:
    if taken(output):
        raise ConfigError(f'--to={output}: must be the {what} to write; name another')
