"""PredictEval: what a model predicts for a held-out split, scored as a whole."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import jax
import numpy as np

from t5x_lite import evaluate, sharding
from t5x_lite.data import seqio_source
from t5x_lite.errors import ConfigError, nearest

Metric = Callable[..., float]  # (predictions, targets) -> a number, named by its __name__


class Predicts(Protocol):
    """A loss that can say what the model predicts: what PredictEval asks of it."""

    metrics: tuple[Metric, ...]

    def predict(self, model, head, outputs, batch) -> Mapping[str, jax.Array]:
        """Arrays [B, ...] of each row: `predictions`, `targets` and `weights`, or others.

        A loss that gives others has `collect(rows, vocabulary)`, which makes (predictions,
        targets) for its metrics of all rows together, on the host.
        """


def collect(rows: Mapping[str, np.ndarray], vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """(predictions, targets) of all places that have a weight, in one line."""
    real = rows['weights'] > 0
    return rows['predictions'][real], rows['targets'][real]


@dataclass(frozen=True, kw_only=True)
class PredictEval:
    """Metrics over all of a held-out split, of every stream with a loss that predicts.

    Each is computed once, from all predictions: exact for metrics that are no means, such as F1,
    and for a last batch that is not full. Without dropout. `streams` limits it to some. `metrics`
    are functions (predictions, targets) -> number (evaluation/classes.py has them), for all streams
    or by stream's name; None takes what suits each loss. Names are `STREAM/METRIC`, or
    `STREAM/TERM/METRIC` where a stream has several terms.
    """

    every: int = 500
    split: str = 'validation'
    metrics: tuple[Metric, ...] | Mapping[str, tuple[Metric, ...]] | None = None
    streams: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, 'streams', tuple(self.streams))
        if not (self.metrics is None or isinstance(self.metrics, Mapping)):
            object.__setattr__(self, 'metrics', tuple(self.metrics))

    def check(self, experiment) -> None:
        evaluate.at_least(self, every=1)
        named = tuple(self.metrics) if isinstance(self.metrics, Mapping) else ()
        for name in (*self.streams, *named):
            if name not in experiment.streams:
                raise ConfigError(
                    f'PredictEval: names a stream {name!r} that is not there; '
                    f'{nearest(name, experiment.streams)}'
                )
        if not self._terms(experiment):
            raise ConfigError(
                f'PredictEval: no loss of {", ".join(experiment.streams)} predicts anything; leave '
                'it out of evals, or train classification(), tagging() or the like'
            )

    def _terms(self, experiment) -> dict[str, list[str]]:
        """The names of the terms that predict, by stream."""
        found = {
            name: [t for t, term in s.objective.terms.items() if hasattr(term.loss, 'predict')]
            for name, s in experiment.streams.items()
            if not self.streams or name in self.streams
        }
        return {name: terms for name, terms in found.items() if terms}

    def _metrics(self, stream: str, loss) -> tuple[Metric, ...]:
        chosen = self.metrics
        if isinstance(chosen, Mapping):
            chosen = chosen[stream] if stream in chosen else None
        return loss.metrics if chosen is None else tuple(chosen)

    def open(self, experiment, mesh):
        from t5x_lite import step

        model_of_params, terms = step.model_of(experiment), self._terms(experiment)

        def predict(params, name: str, batch):
            objective, model = experiment.streams[name].objective, model_of_params(params)
            with sharding.active(mesh, experiment.rules):
                outputs = objective.forward(model, batch, None)
                return {
                    term: objective.terms[term].loss.predict(
                        model, model.heads[term] if term in model.heads else None, outputs, batch
                    )
                    for term in terms[name]
                }

        predict = jax.jit(predict, static_argnums=1, out_shardings=sharding.whole(mesh))

        def evaluate_all(params) -> Iterator[tuple[str, float]]:
            put = lambda batch: sharding.put_batch(batch, mesh, experiment.rules)
            for name in terms:
                batches = evaluate.held_out(experiment, name, self.split)
                parts = [jax.device_get(predict(params, name, put(batch))) for batch in batches]
                if not parts:
                    raise ConfigError(f"Stream '{name}': split {self.split!r} is empty")
                yield from self._scores(experiment, name, parts)

        return evaluate_all

    def _scores(self, experiment, name: str, parts) -> Iterator[tuple[str, float]]:
        stream = experiment.streams[name]
        features = stream.objective.converter.features
        vocabulary = seqio_source.vocabulary(stream.mixture, features, experiment.imports)
        prefix_of = stream.objective.prefixes(name)
        for term in parts[0]:
            loss = stream.objective.terms[term].loss
            arrays = parts[0][term]
            rows = {
                array: np.concatenate([part[term][array] for part in parts]) for array in arrays
            }
            found = getattr(loss, 'collect', collect)(rows, vocabulary)
            for metric in self._metrics(name, loss):
                yield f'{prefix_of[term]}/{metric.__name__}', float(metric(*found))
