"""DecodeEval: what a model writes for held-out inputs, scored by the task's own metrics."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from t5x_lite import evaluate, objective, sharding
from t5x_lite.data import seqio_source, show
from t5x_lite.errors import ConfigError, nearest
from t5x_lite.model.sampling import GREEDY, Beam, Sampling

Metric = Callable[..., float]  # (predictions, targets) -> a number, named by its __name__


@dataclass(frozen=True, kw_only=True)
class DecodeEval:
    """Texts that an encoder-decoder writes, by the metrics of the stream's seqio tasks.

    Each stream of `seq2seq()` has every example of the split decoded once, up to `length` tokens
    or EOS, greedily or as `how` says (`model.sampling.Beam`). What is scored is seqio's: the task's
    `metric_fns` of (targets, predictions), after its `postprocess_fn`; `targets_pretokenized` is
    the true text if the task keeps it. `metrics` are more functions, (predictions, targets) ->
    number (evaluation/overlap.py has them). Names are `STREAM/METRIC`, or `STREAM/TASK/METRIC` of a
    mixture of several tasks. `count` limits the examples of a task.
    """

    every: int = 1000
    split: str = 'validation'
    length: int = 64
    how: Sampling | Beam = GREEDY
    count: int | None = None
    metrics: tuple[Metric, ...] = ()
    streams: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, 'metrics', tuple(self.metrics))
        object.__setattr__(self, 'streams', tuple(self.streams))

    def check(self, experiment) -> None:
        evaluate.at_least(self, every=1, length=1, **({} if self.count is None else {'count': 1}))
        evaluate.check_length(self, self.length, experiment)
        if isinstance(self.how, Sampling) and not self.how.is_greedy:
            raise ConfigError(
                f'DecodeEval: how={self.how} draws, so scores would be chance; use GREEDY or Beam()'
            )
        for name in self.streams:
            if name not in experiment.streams:
                raise ConfigError(
                    f'DecodeEval: names a stream {name!r} that is not there; '
                    f'{nearest(name, experiment.streams)}'
                )
        if not self._streams(experiment):
            raise ConfigError(
                f'DecodeEval: none of {", ".join(experiment.streams)} is of seq2seq(), inputs and '
                'targets through an encoder and a decoder; leave it out of evals'
            )

    def _streams(self, experiment) -> dict[str, Any]:
        """The streams that write targets for inputs."""
        return {
            name: stream
            for name, stream in experiment.streams.items()
            if stream.objective.forward is objective.encode_decode
            and stream.objective.converter.features == ('inputs', 'targets')
            and (not self.streams or name in self.streams)
        }

    def open(self, experiment, mesh):
        from t5x_lite import step

        model_of_params = step.model_of(experiment)

        @functools.partial(jax.jit, static_argnums=2, out_shardings=sharding.whole(mesh))
        def generate(params, batch, eos: int):
            with sharding.active(mesh, experiment.rules):
                return self._generate(model_of_params(params), batch, eos)

        def evaluate_all(params) -> Iterator[tuple[str, float]]:
            for name, stream in self._streams(experiment).items():
                features = stream.objective.converter.features
                info = seqio_source.vocabulary(stream.mixture, features, experiment.imports)

                def write(batch, eos=info.eos):
                    put = sharding.put_batch(batch, mesh, experiment.rules)
                    return np.asarray(generate(params, put, eos))

                provider = seqio_source.find(stream.mixture, experiment.imports)
                tasks = show.tasks_of(provider, self.split)
                for task in tasks:
                    prefix = name if len(tasks) == 1 else f'{name}/{task.name}'
                    for metric, value in self._scores(task, stream, info, write):
                        yield f'{prefix}/{metric}', value

        return evaluate_all

    def _generate(self, model, batch, eos: int):
        from t5x_lite.model import decode

        found = decode.generate(
            model,
            batch['decoder_input_tokens'][:, :1],
            self.length,
            self.how,
            eos=eos,
            memory=objective.encode(model, batch)['encoder_hidden'],
            memory_segments=batch['encoder_segment_ids'],
        )
        return found.tokens_BxSxL[:, 0]

    def _scores(self, task, stream, info, write) -> Iterator[tuple[str, float]]:
        examples = list(self._examples(task))
        if not (task.predict_metric_fns or self.metrics):
            raise ConfigError(
                f'DecodeEval: task {task.name!r} has no metric_fns of (targets, predictions); give '
                'it some, or give DecodeEval metrics=(overlap.rouge_l,)'
            )
        predictions = [
            task.postprocess_fn(text, example=example, is_target=False)
            for text, example in zip(_written(examples, stream, info, write), examples, strict=True)
        ]
        targets = [
            task.postprocess_fn(_target(example, info), example=example, is_target=True)
            for example in examples
        ]
        for function in task.predict_metric_fns:
            for metric, value in function(targets, predictions).items():
                yield metric, float(getattr(value, 'value', value))
        for function in self.metrics:
            yield function.__name__, float(function(predictions, targets))

    def _examples(self, task) -> Iterator[Mapping[str, Any]]:
        """The examples of the split in order, with what the task keeps beside its features."""
        with seqio_source.errors_named(f'split {self.split!r} of {task.name!r}'):
            dataset = task.get_dataset(None, split=self.split, shuffle=False, num_epochs=1)
            yield from dataset.take(-1 if self.count is None else self.count).as_numpy_iterator()


def _target(example: Mapping[str, Any], info) -> str:
    kept = example.get('targets_pretokenized')
    return info.text(example['targets']) if kept is None else kept.decode()


def _written(examples, stream, info, write) -> list[str]:
    """What the model writes for each example; '' for one that the converter drops."""
    converter, lengths = stream.objective.converter, stream.lengths
    converter.check(lengths, info)
    cutter, used = converter.cutter(lengths, info), []
    for i, example in enumerate(examples):
        before = cutter.ready()
        cutter.add({name: example[name] for name in converter.features})
        used += [i] * (cutter.ready() - before)
    texts = [''] * len(examples)
    for begin in range(0, len(used), stream.batch_size):
        places = used[begin : begin + stream.batch_size]
        rows = cutter.take(len(places))
        numbers = np.zeros((len(places), converter.draws(lengths)))
        batch = converter.batch(rows, lengths, info, numbers)
        missing = stream.batch_size - len(places)
        pad = lambda x, missing=missing: np.pad(x, ((0, missing),) + ((0, 0),) * (x.ndim - 1))
        tokens = write({name: pad(x) for name, x in batch.items()})
        for place, ids in zip(places, tokens, strict=False):
            texts[place] = info.text(ids)
    return texts
