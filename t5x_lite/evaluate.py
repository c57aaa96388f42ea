"""Evaluators: loss on held-out text, decoded samples, retrieval by sentence vectors."""
# SPDX-License-Identifier: Apache-2.0

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax
import numpy as np

from t5x_lite import metrics, objective, scoring, sharding
from t5x_lite.data import best_fit, loader, seqio_source
from t5x_lite.errors import ConfigError, nearest
from t5x_lite.metrics import Mean
from t5x_lite.objective import Batch
from t5x_lite.objectives import contrastive, losses

# `open` imports what runs the model (and with it Flax): reading a config stays fast.


EMBED_ROWS = 128  # sentences encoded at once


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
    With `baseline` > 0 also the loss of a unigram model (add-one counts over that many training
    batches) on the same targets. Terms over the whole batch (in-batch negatives) are left out:
    their loss depends on who shares the batch; see EmbedEval.
    """

    every: int = 500
    split: str = 'validation'
    batches: int | None = None
    baseline: int = 0

    def check(self, experiment) -> None:
        _at_least(self, every=1, baseline=0, **({} if self.batches is None else {'batches': 1}))

    def open(self, experiment, mesh):
        from t5x_lite import step

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
    """One pass over a split of a stream's mixture, in order, the last batch padded."""
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


def _at_least(evaluator, **least: int) -> None:
    for field, smallest in least.items():
        value = getattr(evaluator, field)
        if type(value) is not int or value < smallest:
            raise ConfigError(
                f'{type(evaluator).__name__}: {field}={value!r} must be an integer of {smallest} '
                'or more'
            )


def _check_length(evaluator, length: int, experiment) -> None:
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
        _at_least(self, every=1, count=1, prompt=1, length=1)
        _check_length(self, self.prompt + self.length, experiment)

    def open(self, experiment, mesh):
        from t5x_lite import step

        model_of_params = step.model_of(experiment)
        streams = {
            name: stream
            for name, stream in experiment.streams.items()
            if 'decoder' in stream.objective.forward.needs
        }
        generate = jax.jit(
            lambda params, *rest: self._generate(model_of_params(params), *rest),
            static_argnums=(2, 3),
        )

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

        if not paired:
            return decode.greedy(
                model, batch['decoder_input_tokens'][:, : self.prompt], self.length, eos=eos
            )
        outputs = objective.encode(model, batch)
        return decode.greedy(
            model,
            batch['decoder_input_tokens'][:, :1],
            self.length,
            eos=eos,
            memory=outputs['encoder_hidden'],
            memory_segments=batch['encoder_segment_ids'],
        )


@dataclass(frozen=True, kw_only=True)
class EmbedEval:
    """Sentence vectors of a stream's held-out text: does a sentence find its neighbour?

    Of up to `pairs` pairs of neighbouring sentences, `recall_at_1` is the share of first sentences
    whose own second one is nearest by cosine among all (ties count as misses); `alignment` and
    `uniformity` are Wang & Isola's (2020), over pairs and over all vectors. The vector is `pool` of
    the encoder, without the head used in training.
    """

    stream: str
    every: int = 500
    split: str = 'validation'
    pairs: int = 512
    pool: Callable = losses.pool_cls
    length: int = 64

    def check(self, experiment) -> None:
        _at_least(self, every=1, pairs=2, length=3)
        _check_length(self, self.length, experiment)
        if self.stream not in experiment.streams:
            raise ConfigError(
                f'EmbedEval: stream={self.stream!r} is no stream; '
                f'{nearest(self.stream, experiment.streams)}'
            )
        if 'encoder' not in experiment.model.stacks:
            raise ConfigError('EmbedEval: the model has encoder_layers=0; leave it out of evals')

    def open(self, experiment, mesh):
        from t5x_lite import step

        model_of_params = step.model_of(experiment)

        @jax.jit
        def embed(params, batch):
            hidden = objective.encode(model_of_params(params), batch)['encoder_hidden']
            return losses.normalise_rows(self.pool(hidden, batch['encoder_segment_ids'] > 0))

        def evaluate(params):
            queries, matches = (
                [np.asarray(embed(params, batch)) for batch in side] for side in sides
            )
            for name, value in retrieval(np.concatenate(queries), np.concatenate(matches)).items():
                yield f'{self.stream}/{name}', value

        sides = self._pairs(experiment)
        return evaluate

    def _pairs(self, experiment) -> tuple[list[Batch], list[Batch]]:
        """Batches of first sentences and of the ones that follow them, in the same order."""
        mixture, converter = experiment.streams[self.stream].mixture, contrastive.Sentences()
        features, lengths = converter.features, {'targets': self.length}
        vocabulary = seqio_source.vocabulary(mixture, features, experiment.imports)
        converter.check(lengths, vocabulary)
        documents = seqio_source.Examples(
            mixture, features, split=self.split, imports=experiment.imports
        )
        queries, matches, found = [], [], 0
        for document in documents:
            cutter = converter.cutter(lengths, vocabulary)
            cutter.add(document)
            pairs = min(cutter.ready() // 2, self.pairs - found)
            if found == self.pairs:
                break
            if pairs:
                rows = cutter.take(2 * pairs)
                batch = converter.batch(rows, lengths, vocabulary, np.zeros((2 * pairs, 0)))
                queries.append({name: x[0::2] for name, x in batch.items()})
                matches.append({name: x[1::2] for name, x in batch.items()})
                found += pairs
        if found < 2:
            raise ConfigError(
                f'EmbedEval: split {self.split!r} of {mixture!r} has {found} pairs of neighbouring '
                'sentences, it needs 2 or more'
            )
        return _joined(queries), _joined(matches)


def _joined(batches: list[Batch]) -> list[Batch]:
    """The same rows in batches of one size (the last may be smaller): one or two compilations."""
    whole = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    count = len(next(iter(whole.values())))
    return [
        {name: x[start : start + EMBED_ROWS] for name, x in whole.items()}
        for start in range(0, count, EMBED_ROWS)
    ]


def retrieval(query_BxD: np.ndarray, match_BxD: np.ndarray) -> dict[str, float]:
    """recall_at_1 of each query's own match, alignment and uniformity of unit vectors."""
    scores_BxB = query_BxD @ match_BxD.T
    gold_B = np.diagonal(scores_BxB).copy()
    np.fill_diagonal(scores_BxB, -np.inf)
    both = np.concatenate([query_BxD, match_BxD])
    squared = np.maximum(2.0 - 2.0 * (both @ both.T), 0.0)
    apart = ~np.eye(len(both), dtype=bool)
    return {
        'recall_at_1': float((gold_B > scores_BxB.max(-1)).mean()),
        'alignment': float(np.square(query_BxD - match_BxD).sum(-1).mean()),
        'uniformity': float(np.log(np.exp(-2.0 * squared[apart]).mean())),
    }
