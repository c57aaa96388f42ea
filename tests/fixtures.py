"""Small experiments and batches of random text, made by the real converters, for tests."""
# SPDX-License-Identifier: Apache-2.0

import jax
import numpy as np

from t5x_lite import step
from t5x_lite.data.loader import ShardBatches
from t5x_lite.data.vocabularies import VocabularyInfo
from t5x_lite.experiment import Experiment, Stream
from t5x_lite.model.config import ModelConfig
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.objectives.contrastive import mlm_simcse, simcse
from t5x_lite.objectives.crops import crops
from t5x_lite.objectives.mlm import mlm
from t5x_lite.objectives.span_corruption import span_corruption
from t5x_lite.optim import AdamW

OBJECTIVES = {
    'mlm': (mlm(), {'targets': 16}),
    'span': (span_corruption(z_loss=1e-4), {'inputs': 24, 'targets': 12}),
    'clm': (causal_lm(), {'targets': 16}),
    'simcse': (simcse(), {'targets': 12}),
    'mlm_simcse': (mlm_simcse(), {'targets': 12}),
    'crops': (crops(passage=16, shortest=4), {'targets': 12}),
}


def vocabulary(size: int = 64) -> VocabularyInfo:
    """pad 0, eos 1, unk 2, cls 3, sep 4, mask 5, full stop 6, words; eight sentinels last."""
    special = np.zeros(size, bool)
    special[:6] = special[-8:] = True
    pieces = ['<pad>', '</s>', '<unk>', '[CLS]', '[SEP]', '[MASK]', '.']
    pieces += [f'▁W{i}' for i in range(7, size)]
    return VocabularyInfo(
        size=size,
        pad=0,
        eos=1,
        unk=2,
        bos=None,
        cls=3,
        sep=4,
        mask=5,
        sentinels=tuple(range(size - 1, size - 9, -1)),
        modes={},
        special=special,
        bytes_per_token=np.where(special, 0, 3).astype(np.int32),
        pieces=tuple(pieces),
    )


def documents(seed: int = 0, count: int = 1000, size: int = 64):
    """Documents of random words, a full stop after every six."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        tokens = rng.integers(7, size - 8, rng.integers(20, 60)).astype(np.int32)
        tokens[6::7] = 6
        yield {'targets': tokens}


def batches(experiment: Experiment, count: int, seed: int = 0) -> list[dict]:
    """The first batches of every stream: [{stream: {array: values}}]."""
    rows = {
        name: ShardBatches(
            documents(seed),
            stream.objective.converter,
            stream.lengths,
            vocabulary(),
            rows=stream.batch_size,
            seed=(seed,),
        )
        for name, stream in experiment.streams.items()
    }
    return [{name: next(r) for name, r in rows.items()} for _ in range(count)]


def experiment(*names: str, batch_size: int = 16, model=None, **fields) -> Experiment:
    """An experiment of width 32 with the named objectives as its streams."""
    changes = dict(vocab=64, embed=32, heads=4, mlp=64, encoder_layers=2, decoder_layers=2)
    streams = {
        name: Stream(
            mixture='none',
            objective=OBJECTIVES[name][0],
            lengths=OBJECTIVES[name][1],
            batch_size=batch_size,
        )
        for name in names
    }
    fields = dict(optimizer=AdamW(learning_rate=3e-3, clip=1.0), steps=10) | fields
    return Experiment(model=ModelConfig(**changes | (model or {})), streams=streams, **fields)


def params(experiment: Experiment) -> dict:
    """Fresh parameters, made in one compiled call."""
    return jax.jit(lambda: step.init_state(experiment).params)()
