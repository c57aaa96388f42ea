"""Evaluators: loss on held-out text, decoded samples."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import jax
import numpy as np

from t5x_lite import metrics, objective, scoring, sharding
from t5x_lite.data import best_fit, loader, seqio_source
from t5x_lite.errors import ConfigError, nearest
from t5x_lite.metrics import Mean
from t5x_lite.objective import Batch, Objective

# `open` imports what runs the model (and with it Flax): reading a config stays fast.


class Sample(NamedTuple):
    """A decoded text for people to read."""

    stream: str
    prompt: str
    output: str
    target: str


class Evaluator(Protocol):
    """A value that an experiment holds: `open` makes what is called with the parameters."""

    every: int

    def check(self, experiment) -> None:
        """Raises ConfigError if it does not fit the experiment; called when that is built."""

    def open(self, experiment, mesh) -> Callable[..., Iterator[tuple[str, float | Sample]]]:
        """A function params -> (name, value) pairs; names begin with the stream."""


@dataclass(frozen=True, kw_only=True)
class LossEval:
    """Each stream's losses over its held-out split, without dropout, exact to the last row.

    Adds `perplexity`, and `bits_per_byte` of the scored text. `batches` limits how many are read.
    `objectives` replaces a stream's own, such as masked LM at another rate than in training.
    With `baseline` > 0 also the loss of a unigram model (add-one counts over that many training
    batches) on the same targets. Terms over the whole batch (in-batch negatives) are left out:
    their loss depends on who shares the batch; see EmbedEval.
    """

    every: int = 500
    split: str = 'validation'
    batches: int | None = None
    baseline: int = 0
    objectives: Mapping[str, Objective] = field(default_factory=dict)

    def check(self, experiment) -> None:
        at_least(self, every=1, baseline=0, **({} if self.batches is None else {'batches': 1}))
        for name in self.objectives:
            if name not in experiment.streams:
                raise ConfigError(
                    f'LossEval: objectives name a stream {name!r} that is not there; '
                    f'{nearest(name, experiment.streams)}'
                )
        own = self._experiment(experiment)
        if own.heads != experiment.heads:
            raise ConfigError(
                'LossEval: objectives have other heads than those that are trained, '
                f'{own.heads} and {experiment.heads}; give them the same terms and heads'
            )

    def _experiment(self, experiment):
        """The experiment with these objectives in place of those of its streams."""
        streams = {
            name: dataclasses.replace(stream, objective=self.objectives.get(name, stream.objective))
            for name, stream in experiment.streams.items()
        }
        plan = dataclasses.replace(experiment.checkpoint, best=None)  # it may be one of `evals`
        return dataclasses.replace(experiment, streams=streams, evals={}, checkpoint=plan)

    def open(self, experiment, mesh):
        from t5x_lite import step

        experiment = self._experiment(experiment)
        eval_step, unigrams = step.make_eval_step(experiment, mesh), {}
        streams = {
            name: stream
            for name, stream in experiment.streams.items()
            if not all(term.batchwide for term in stream.objective.terms.values())
        }

        def evaluate(params):
            for name, stream in streams.items():
                if self.baseline and name not in unigrams:
                    counts, _ = self._totals(experiment, name, 'train', self.baseline)
                    unigrams[name] = {term: scoring.unigram(c) for term, c in counts.items()}
                run = lambda batch, name=name: jax.device_get(
                    eval_step(params, {name: sharding.put_batch(batch, mesh, experiment.rules)})
                )
                counts, means = self._totals(experiment, name, self.split, self.batches, run)
                prefix_of = stream.objective.prefixes(name)
                for term, t in stream.objective.terms.items():
                    if t.batchwide:
                        own = f'{prefix_of[term]}/'
                        means = {k: m for k, m in means.items() if not k.startswith(own)}
                yield from scoring.summarise(means, counts, unigrams.get(name, {}), prefix_of)

        return evaluate

    def _totals(self, experiment, name, split, batches, run=lambda batch: {}):
        """(what was scored, means of `run`), in double precision, over a split's first batches."""
        stream, counts, means = experiment.streams[name], None, {}
        info = seqio_source.vocabulary(
            stream.mixture, stream.objective.converter.features, experiment.imports
        )
        for batch in itertools.islice(held_out(experiment, name, split), batches):
            new = run(batch)
            double = {k: Mean(*(np.float64(x) for x in mean)) for k, mean in new.items()}
            means = metrics.add(means, double)
            scores = scoring.scored(stream.objective, batch, info.bytes_per_token)
            counts = scoring.add(counts or {}, scores)
        if counts is None:  # {} where no term scores tokens
            raise ConfigError(f"Stream '{name}': split {split!r} of {stream.mixture!r} is empty")
        return counts, means


def held_out(experiment, name: str, split: str) -> Iterator[Batch]:
    """One pass over a split of a stream's mixture, in order, the last batch padded.

    Every host reads all of it and gives its devices their rows: sums are those of one host, and no
    host can be a batch ahead of another.
    """
    rows = loader.open_stream(
        experiment.streams[name],
        name,
        split=split,
        training=False,
        seed=experiment.seed,
        imports=experiment.imports,
        vocab=experiment.model.vocab,
    )
    try:
        yield from rows
    finally:
        rows.close()


def _first_segments(batch: Batch) -> Batch:
    """A batch in which each row of packed pairs keeps its first pair alone."""
    sides = {name: f'{side}_segment_ids' for name, side in best_fit.sides(batch).items()}
    first = lambda x, segments: x * (segments == 1).astype(x.dtype)
    return {n: first(x, batch[sides[n]]) if sides[n] in batch else x for n, x in batch.items()}


def at_least(evaluator, **least: int) -> None:
    """ConfigError unless each field is an integer of at least that."""
    for name, smallest in least.items():
        value = getattr(evaluator, name)
        if type(value) is not int or value < smallest:
            raise ConfigError(
                f'{type(evaluator).__name__}: {name}={value!r} must be an integer of {smallest} '
                'or more'
            )


def check_length(evaluator, length: int, experiment) -> None:
    """ConfigError unless the model has that many positions."""
    longest = experiment.model.positions.max_length
    if longest is not None and length > longest:
        raise ConfigError(
            f'{type(evaluator).__name__}: needs {length} positions, but model.positions knows '
            f'{longest}; shorten its length'
        )


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Greedy continuations of held-out text by every stream with a decoder.

    A decoder-only stream is given the first `prompt` tokens of a row; an encoder-decoder its
    encoder's inputs.
    """

    every: int = 1000
    count: int = 3
    prompt: int = 32
    length: int = 64
    split: str = 'validation'

    def check(self, experiment) -> None:
        at_least(self, every=1, count=1, prompt=1, length=1)
        check_length(self, self.prompt + self.length, experiment)

    def open(self, experiment, mesh):
        from t5x_lite import step

        model_of_params = step.model_of(experiment)
        streams = {
            name: stream
            for name, stream in experiment.streams.items()
            if 'decoder' in stream.objective.forward.needs
        }

        def continued(params, *rest):
            with sharding.active(mesh, experiment.rules):
                return self._generate(model_of_params(params), *rest)

        whole = sharding.whole(mesh)
        generate = jax.jit(continued, static_argnums=(2, 3), out_shardings=whole)

        def evaluate(params):
            for name, stream in streams.items():
                info = seqio_source.vocabulary(
                    stream.mixture, stream.objective.converter.features, experiment.imports
                )
                rows = held_out(experiment, name, self.split)
                batch = {array: x[: self.count] for array, x in next(rows).items()}
                rows.close()
                paired = 'encoder' in stream.objective.forward.needs
                batch = _first_segments(batch) if paired else batch
                outputs = np.asarray(generate(params, batch, info.eos, paired))
                side = 'encoder_input_tokens' if paired else 'decoder_input_tokens'
                prompts = batch[side] if paired else batch[side][:, : self.prompt]
                targets = batch['decoder_target_tokens'][:, 0 if paired else self.prompt - 1 :]
                for row in zip(prompts, outputs, targets[:, : self.length], strict=True):
                    yield f'{name}/sample', Sample(name, *(info.text(ids) for ids in row))

        return evaluate

    def _generate(self, model, batch, eos, paired: bool):
        from t5x_lite.model import decode

        prompt, more = batch['decoder_input_tokens'][:, : self.prompt], {}
        if paired:
            prompt = prompt[:, :1]
            more['memory'] = objective.encode(model, batch)['encoder_hidden']
            more['memory_segments'] = batch['encoder_segment_ids']
        found = decode.generate(model, prompt, self.length, eos=eos, **more)
        return found.tokens_BxSxL[:, 0]
