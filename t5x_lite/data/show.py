"""What the model will see, as values: documents of a task step by step, first rows of a stream."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from t5x_lite.data import seqio_source, seqio_steps
from t5x_lite.data.cells import TEXT, TOKENS, Group, Row, in_words, rows, tokens_of
from t5x_lite.data.loader import Loader, open_stream
from t5x_lite.data.vocabularies import VocabularyInfo, describe
from t5x_lite.errors import ConfigError


class StreamView(NamedTuple):
    """The first rows of a stream's first batch; `facts` says in words what the stream is."""

    name: str
    facts: Mapping[str, str]
    rows: tuple[Row, ...]


class Value(NamedTuple):
    """A feature after a step: '+' new, '~' changed, '-' gone, '=' as before; text, and tokens."""

    name: str
    change: str
    kind: str
    text: str
    tokens: Group | None = None


class StepView(NamedTuple):
    name: str
    made: int  # examples made of the one before; the first is shown
    values: tuple[Value, ...]


class TaskView(NamedTuple):
    """Documents of a task step by step; `left_out` counts those that a step dropped on the way.

    They come in the order of the source; `buffer` is among how many training draws the next.
    """

    name: str
    split: str
    documents: tuple[tuple[StepView, ...], ...]
    left_out: Mapping[str, int]
    buffer: int | None = None

    def order(self) -> str:
        """What the documents are, in words."""
        words = f'The first {len(self.documents)} documents of the source'
        shuffled = self.split == 'train' and self.buffer
        return words + (f'; training draws among {self.buffer:,}.' if shuffled else '.')


def task_views(
    mixture: str, split: str, *, seed: int, count: int, imports: Sequence[str] = ()
) -> list[TaskView]:
    """The first documents of a task, or of each task of a mixture that has the split."""
    views = []
    for task in tasks_of(seqio_source.find(mixture, imports), split):
        found = seqio_steps.trace(task, split, seed=seed, count=count, shuffle=split == 'train')
        vocabularies = {n: known(f.vocabulary) for n, f in task.output_features.items()}
        documents = tuple(tuple(_steps(trace, vocabularies)) for trace in found.documents)
        views.append(
            TaskView(task.name, split, documents, found.left_out, task.shuffle_buffer_size)
        )
    return views


def tasks_of(provider, split: str) -> list:
    """The tasks of a mixture that have the split, or the task itself; ConfigError if none has."""
    tasks = [t for t in getattr(provider, 'tasks', [provider]) if split in t.splits]
    if not tasks:
        raise ConfigError(
            f'Stream: mixture {provider.name!r} has no split {split!r}; it has '
            f'{", ".join(sorted(provider.splits))}'
        )
    return tasks


def known(vocabulary) -> VocabularyInfo | None:
    """What is known of a vocabulary; None of a kind without pieces."""
    try:
        return describe(vocabulary)
    except ConfigError:  # such as seqio.PassThroughVocabulary
        return None


def _steps(trace: seqio_steps.Trace, vocabularies) -> Iterator[StepView]:
    before = {}
    for name, examples in (('source', (trace.source,)), *trace.steps):
        after = examples[0]
        names = [*after, *(n for n in before if n not in after)]
        values = [_value(n, before.get(n), after.get(n), vocabularies.get(n)) for n in names]
        yield StepView(name, len(examples), tuple(values))
        before = after


def _value(name: str, before, after, vocabulary: VocabularyInfo | None) -> Value:
    if after is None:
        return Value(name, '-', '', '')
    change = '+' if before is None else '=' if _same(before, after) else '~'
    if isinstance(after, bytes):
        text = after.decode(errors='replace')
        return Value(name, change, f'text of {len(text):,} characters', text[:TEXT])
    after = np.asarray(after)
    kind = f'{after.dtype} {list(after.shape)}' if after.ndim else str(after.dtype)
    if vocabulary is not None and after.ndim == 1 and after.dtype.kind in 'iu':
        text = vocabulary.text(after[:TOKENS])
        return Value(name, change, kind, text, tokens_of(name, after, vocabulary))
    return Value(name, change, kind, in_words(after))


def _same(a, b) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and np.array_equal(a, b)


def stream_view(experiment, name: str, split: str, count: int) -> StreamView:
    """The first `count` rows that training (split 'train') or evaluation takes of a stream."""
    stream = experiment.streams[name]
    converter, batches = stream.objective.converter, open_loader(experiment, name, split)
    try:
        batch = next(batches, None)
    finally:
        batches.close()
    if batch is None:
        raise ConfigError(f"Stream '{name}': split {split!r} of {stream.mixture!r} makes no row")
    vocabulary = seqio_source.vocabulary(stream.mixture, converter.features, experiment.imports)
    terms = stream.objective.terms.items()
    facts = {
        'mixture': f'{stream.mixture}, split {split}, seed {experiment.seed}',
        'converter': repr(converter),
        'forward': getattr(stream.objective.forward, '__name__', repr(stream.objective.forward)),
        'terms': ', '.join(f'{n} (weight {_number(t.weight)})' for n, t in terms),
        'lengths': ', '.join(f'{n} {length}' for n, length in stream.lengths.items()),
        'batch': f'{stream.batch_size} rows; here are rows 1 to {min(count, stream.batch_size)} '
        f'of the first batch',
    }
    return StreamView(name, facts, rows(batch, vocabulary, count))


def open_loader(experiment, name: str, split: str) -> Loader:
    """What training opens for split 'train' on one host; else one pass, as evaluation makes."""
    how = dict(seed=experiment.seed, imports=experiment.imports, vocab=experiment.model.vocab)
    how |= dict(data_shards=experiment.data_shards) if split == 'train' else {}
    stream = experiment.streams[name]
    return open_stream(stream, name, split=split, training=split == 'train', **how)


def _number(weight) -> str:
    return repr(weight) if callable(weight) else f'{weight:g}'
