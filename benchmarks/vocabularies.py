"""Speed of tokenizing in tf.data beside each library's own batch call: MB per CPU second."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ |= {'TOKENIZERS_PARALLELISM': 'false', 'RAYON_NUM_THREADS': '1'}

from t5x_lite.data import corpora, seqio_source, train_tokenizer, vocabularies  # noqa: E402


def kinds(texts: list[str], size: int) -> Iterator[tuple[str, object, Callable]]:
    """Each kind's name, its vocabulary, and the batch call that its library offers."""
    from t5x_lite.data.hf_vocabulary import from_folder

    bundled = vocabularies.bundled()
    yield 'sentencepiece', bundled, bundled.tokenizer.encode
    for name, train in (
        ('wordpiece', train_tokenizer.wordpiece),
        ('bpe', train_tokenizer.byte_bpe),
    ):
        tokenizer = train(texts, size)
        with tempfile.TemporaryDirectory() as folder:
            train_tokenizer.write(tokenizer, Path(folder))
            vocabulary = from_folder(folder)
        batch = lambda texts, encode=tokenizer.encode_batch_fast: encode(
            texts, add_special_tokens=False
        )
        yield name, vocabulary, batch


def seconds(call: Callable[[], None], rounds: int) -> float:
    """The least CPU time of a call, all threads together."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return min(times)


def pipeline(vocabulary, texts: list[str]) -> Callable[[], None]:
    """A call that tokenizes all texts as a seqio task does, one after the other."""
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(texts).map(vocabulary.encode_tf)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    dataset = dataset.with_options(options)

    def run() -> None:
        for _ in dataset:
            pass

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--size', type=int, default=8064, help='pieces of a vocabulary')
    parser.add_argument('--rounds', type=int, default=3, help='the fastest counts')
    parser.add_argument('--split', default='validation', help='of the bundled corpus')
    arguments = parser.parse_args()
    seqio_source.import_seqio()
    train = list(corpora.texts(corpora.split_path('train')))
    documents = list(corpora.texts(corpora.split_path(arguments.split)))
    lines = [line for text in documents for line in text.split('\n') if line]
    print(f'{"":16}{"":12} {"bytes":>8} {"library":>8} {"tf.data":>8}  MB per CPU second')
    for name, vocabulary, batch in kinds(train, arguments.size):
        for what, texts in (('documents', documents), ('paragraphs', lines)):
            total = sum(len(text.encode()) for text in texts)
            own = total / 1e6 / seconds(lambda b=batch, t=texts: b(t), arguments.rounds)
            ours = total / 1e6 / seconds(pipeline(vocabulary, texts), arguments.rounds)
            mean = total / len(texts)
            print(f'{name:16}{what:12} {mean:8.0f} {own:8.2f} {ours:8.2f}  {ours / own:.2f}')


if __name__ == '__main__':
    main()
