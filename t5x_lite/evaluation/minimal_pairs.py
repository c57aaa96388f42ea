"""MinimalPairs: does a model find the good sentence of two likelier than the bad one (BLiMP)?"""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from t5x_lite import evaluate, sharding
from t5x_lite.data import seqio_source
from t5x_lite.data.vocabularies import describe
from t5x_lite.errors import ConfigError, nearest
from t5x_lite.evaluation import batches, likelihood, reading
from t5x_lite.evaluation.likelihood import Text
from t5x_lite.model.heads import MaskedLMHead

FIELDS = ('sentence_good', 'sentence_bad')


class Pair(NamedTuple):
    """Two sentences, and where they stand: `FILE line N`."""

    good: Any  # str, or the Text of its ids
    bad: Any
    place: str


@dataclass(frozen=True, kw_only=True)
class MinimalPairs:
    """The share of pairs whose good sentence is likelier, for each file and over all pairs.

    `path` is a file of JSON lines with `sentence_good` and `sentence_bad`, as BLiMP has them
    (Warstadt et al. 2020), or a folder of such files `*.jsonl`, a phenomenon each. A tie counts as
    wrong.

    A decoder's score is the log-probability of the sentence after BOS; with `eos`, of its end too.
    That of an encoder with a masked LM head is the pseudo-log-likelihood (Salazar et al. 2020),
    with `within_word` the one of Kauf & Ivanova (2023); `head` names the head of several. Names
    are `STREAM/PATH/FILE/accuracy` and `STREAM/PATH/accuracy`; `stream` says whose vocabulary,
    None for the first. `batch_size` rows go through the model at once: a sentence is one, for a
    masked LM one for each of its tokens.
    """

    path: str
    every: int = 1000
    stream: str | None = None
    eos: bool = False
    within_word: bool = False
    head: str | None = None
    batch_size: int = 128

    def check(self, experiment) -> None:
        evaluate.at_least(self, every=1, batch_size=1)
        if self.stream is not None and self.stream not in experiment.streams:
            raise ConfigError(
                f'MinimalPairs: stream={self.stream!r} is no stream; '
                f'{nearest(self.stream, experiment.streams)}'
            )
        stacks = experiment.model.stacks
        if len(stacks) == 2:
            raise ConfigError(
                'MinimalPairs: an encoder-decoder gives targets for inputs, not one sentence a '
                'likelihood; leave it out of evals, or train a decoder or an encoder alone'
            )
        if 'decoder' in stacks and (self.within_word or self.head is not None):
            raise ConfigError(
                f'MinimalPairs: within_word={self.within_word}, head={self.head!r} are for masked '
                'LMs, but the model is a decoder; leave them out'
            )
        if 'encoder' in stacks:
            self._head(experiment)

    def _head(self, experiment) -> str:
        """The name of the masked LM head."""
        if self.eos:
            raise ConfigError(
                'MinimalPairs: eos=True is for decoders, a masked LM scores no marks; leave it out'
            )
        found = [name for name, h in experiment.heads.items() if isinstance(h, MaskedLMHead)]
        if not found:
            raise ConfigError(
                'MinimalPairs: an encoder needs a masked LM head, the heads are '
                f'{", ".join(experiment.heads) or "none"}; train mlm(), or leave it out of evals'
            )
        if self.head is not None and self.head not in found:
            raise ConfigError(
                f'MinimalPairs: head={self.head!r} is no masked LM head; '
                f'{nearest(self.head, found)}'
            )
        if self.head is None and len(found) > 1:
            raise ConfigError(
                f'MinimalPairs: there are several masked LM heads, {", ".join(found)}; '
                f'set head={found[0]!r}'
            )
        return self.head or found[0]

    def open(self, experiment, mesh):
        """Reads and checks all pairs; see Evaluator."""
        stream = self.stream or next(iter(experiment.streams))
        own, path = experiment.streams[stream], Path(self.path)
        vocabulary = seqio_source.text_vocabulary(own, experiment.imports)
        info = describe(vocabulary)
        framed = _framing(experiment, info, self.eos)
        files = _ids(read(path), vocabulary, framed, experiment, path)
        run, prefix = _compiled(experiment, mesh), f'{stream}/{path.resolve().stem}'

        def evaluate_all(params) -> Iterator[tuple[str, float]]:
            through = _Through(experiment, mesh, run, params, self.batch_size)
            right = {}
            for name, pairs in files.items():
                good, bad = (self._scores([p[i] for p in pairs], through, info) for i in (0, 1))
                right[name] = good > bad
                if len(files) > 1:
                    yield f'{prefix}/{name}/accuracy', float(right[name].mean())
            yield f'{prefix}/accuracy', float(np.concatenate([*right.values()]).mean())

        return evaluate_all

    def _scores(self, texts: Sequence[Text], through: '_Through', info) -> np.ndarray:
        if 'decoder' in through.experiment.model.stacks:
            found = likelihood.by_decoder(texts, through)
        else:
            own = dict(head=self._head(through.experiment), within_word=self.within_word)
            found = likelihood.by_masked_lm(texts, through, info, **own)
        return np.array([one.total for one in found])


# -- files ----------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, list[Pair]]:
    """The pairs of each file of a folder, by its name without `.jsonl`; or of one file.

    Raises:
      ConfigError: no such file; lines that are no pair, by their numbers.
    """
    files = sorted(path.glob('*.jsonl')) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f'MinimalPairs: path={path} has no *.jsonl files; name a folder that has')
    problems = reading.Problems(f'MinimalPairs: path={path}')
    pairs = {file.stem: list(_pairs(file, problems)) for file in files}
    problems.check()
    for name, own in pairs.items():
        if not own:
            raise ConfigError(f'MinimalPairs: path={path}: {name} has no pairs; leave it out')
    return pairs


def _pairs(file: Path, problems: reading.Problems) -> Iterator[Pair]:
    for where, found in reading.objects(file, problems):
        given = [reading.string(found, name, where, problems) for name in FIELDS]
        if None not in given:
            yield Pair(*given, where)


# -- rows -----------------------------------------------------------------------------------------


def _framing(experiment, info, eos: bool) -> Callable[[list[int]], Text]:
    """How the ids of a sentence become a row, as in training."""
    if 'decoder' in experiment.model.stacks:
        end = [info.eos] if eos and info.eos is not None else []
        return lambda ids: Text([*ids, *end], [info.start])
    missing = [name for name in ('cls', 'sep', 'mask') if getattr(info, name) is None]
    if missing:
        raise ConfigError(f'MinimalPairs: the vocabulary has no {", ".join(missing)} token')
    return lambda ids: Text(list(ids), [info.cls], end=[info.sep])


def _ids(files: Mapping[str, list[Pair]], vocabulary, framed: Callable, experiment, path):
    """The pairs as rows; ConfigError for pairs that no score could tell apart, or too long ones."""
    problems, out = reading.Problems(f'MinimalPairs: path={path}'), {}
    for name, pairs in files.items():
        out[name] = own = []
        for pair in pairs:
            good, other = (framed(vocabulary.encode(text)) for text in pair[:2])
            for rule in _unfit(pair, good, other, experiment.model):
                problems.add(pair.place, rule)
            own.append(Pair(good, other, pair.place))
    problems.check()
    return out


def _unfit(pair: Pair, good: Text, bad: Text, model) -> Iterator[str]:
    if good == bad:
        same = 'are equal' if pair.good == pair.bad else 'become the same tokens'
        yield f'the sentences {same}'
    if not (good.targets and bad.targets):
        yield 'a sentence has no token of the vocabulary'
    unread = 'decoder' in model.stacks  # the last token
    longest = max(len(good.row), len(bad.row)) - unread
    most = model.positions.max_length
    if most is not None and longest > most:
        yield f'takes {longest} positions, the model has {most}'


class _Through(NamedTuple):
    """Rows through the model that trains, as `batches.Through`."""

    experiment: Any
    mesh: Any
    run: Callable
    params: Any
    batch_size: int

    def padded(self, rows):
        return batches.padded(rows, self.experiment.model.positions.max_length)

    def compute(self, function, rows, **static):
        put = lambda batch: sharding.put_batch(batch, self.mesh, self.experiment.rules)
        call = lambda batch: self.run(self.params, put(batch), function, tuple(static.items()))
        size = batches.batch_size(self.batch_size, self.mesh, self.experiment.rules)
        return batches.in_batches(call, rows, size)


def _compiled(experiment, mesh) -> Callable:
    """`function(model, batch, **static)` of the parameters, compiled for each function once."""
    from t5x_lite import step

    model_of_params = step.model_of(experiment)

    def run(params, batch, function, static):
        with sharding.active(mesh, experiment.rules):
            return function(model_of_params(params), batch, **dict(static))

    return jax.jit(run, static_argnums=(2, 3), out_shardings=sharding.whole(mesh))
