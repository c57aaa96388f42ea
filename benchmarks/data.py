"""Speed of the data path from token ids to batches: million tokens per CPU second, by objective."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import time
from collections.abc import Iterator

import numpy as np

from t5x_lite.data import vocabularies
from t5x_lite.data.masking import Ngrams, Spans, WholeWords
from t5x_lite.data.randomness import uniforms
from t5x_lite.data.vocabularies import VocabularyInfo
from t5x_lite.objective import Objective
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.objectives.contrastive import mlm_simcse, simcse
from t5x_lite.objectives.denoising import denoising
from t5x_lite.objectives.mlm import mlm
from t5x_lite.objectives.packed import packed
from t5x_lite.objectives.permuted_lm import permuted_lm
from t5x_lite.objectives.prefix_lm import prefix_lm, prefix_seq2seq
from t5x_lite.objectives.replaced_tokens import electra
from t5x_lite.objectives.sentence_pairs import bert, nsp, sop
from t5x_lite.objectives.shuffle_lm import deshuffle, permuted_tokens
from t5x_lite.objectives.span_corruption import span_corruption
from t5x_lite.objectives.ul2 import ul2, ul2r

SIZE, SENTINELS, FIRST_TEXT = 8192, 128, 9


def vocabulary() -> VocabularyInfo:
    """One piece in twenty ends a sentence; every other one begins a word."""
    pieces = [f'{"▁" * (i % 2)}W{i}{"." * (i % 20 == 0)}' for i in range(SIZE)]
    special = np.arange(SIZE) < FIRST_TEXT
    special[-SENTINELS:] = True
    return VocabularyInfo(
        size=SIZE,
        pad=0,
        eos=1,
        unk=2,
        bos=None,
        cls=3,
        sep=4,
        mask=5,
        sentinels=tuple(range(SIZE - 1, SIZE - 1 - SENTINELS, -1)),
        modes={name: i for i, name in enumerate(vocabularies.MODES, 6)},
        special=special,
        bytes_per_token=np.ones(SIZE, np.int32),
        pieces=tuple(pieces),
    )


def objectives(length: int) -> Iterator[tuple[str, Objective, dict[str, int]]]:
    one, two = {'targets': length}, {'inputs': length, 'targets': length}
    yield 'mlm', mlm(), one
    yield 'mlm_static', mlm(static=10), one
    yield 'mlm_words', mlm(choose=WholeWords()), one
    yield 'mlm_ngrams', mlm(choose=Ngrams()), one
    yield 'mlm_spans', mlm(choose=Spans()), one
    yield 'nsp', nsp(), one
    yield 'sop', sop(), one
    yield 'bert', bert(), one
    yield 'electra', electra(), one
    yield 'permuted_lm', permuted_lm(), one
    yield 'permuted_tokens', permuted_tokens(), one
    yield 'causal_lm', causal_lm(), one
    yield 'prefix_lm', prefix_lm(), one
    yield 'prefix_seq2seq', prefix_seq2seq(), two
    yield 'span_corruption', span_corruption(), two
    yield 'ul2', ul2(), two
    yield 'ul2r', ul2r(), two
    yield 'denoising', denoising(), two
    yield 'deshuffle', deshuffle(), two
    yield 'packed_clm', packed(objective=causal_lm(join=False)), one
    yield 'packed_mlm', packed(objective=mlm()), one
    yield 'simcse', simcse(), {'targets': 32}
    yield 'mlm_simcse', mlm_simcse(), {'targets': 32}


def rate(objective: Objective, lengths: dict[str, int], arguments: argparse.Namespace) -> float:
    """Tokens of documents put through cutting and corruption per CPU second."""
    converter, info = objective.converter, vocabulary()
    converter.check(lengths, info)
    cutter, draws, row = converter.cutter(lengths, info), converter.draws(lengths), 0
    random = np.random.default_rng(0)
    shape = (arguments.tokens // arguments.document, arguments.document)
    documents = random.integers(FIRST_TEXT, SIZE - SENTINELS, shape, dtype=np.int32)
    began = time.process_time()
    for tokens in documents:
        cutter.add({'targets': tokens})
        while cutter.ready() >= arguments.batch:
            rows = cutter.take(arguments.batch)
            converter.batch(rows, lengths, info, uniforms((0,), row, arguments.batch, draws))
            row += arguments.batch
    return documents.size / (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--tokens', type=int, default=4_000_000, help='in all')
    parser.add_argument('--document', type=int, default=2000, help='tokens of a document')
    parser.add_argument('--length', type=int, default=512, help='tokens of a row')
    parser.add_argument('--batch', type=int, default=64, help='rows of a batch')
    arguments = parser.parse_args()
    for name, objective, lengths in objectives(arguments.length):
        speed = rate(objective, lengths, arguments)
        print(f'{name:16} {speed / 1e6:6.1f} M tokens per CPU second')


if __name__ == '__main__':
    main()
