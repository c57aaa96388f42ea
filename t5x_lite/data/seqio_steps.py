"""What each preprocessor of a seqio task makes of its documents, one document at a time."""
# SPDX-License-Identifier: Apache-2.0

import collections
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from t5x_lite.data.seqio_source import errors_named, import_seqio

Example = Mapping[str, Any]  # feature -> NumPy array, or bytes for a string

PATIENCE = 1000  # documents in a row that may all be left out


class Step(NamedTuple):
    """One preprocessor and the examples it made of one example; none: it left the example out."""

    name: str
    examples: tuple[Example, ...]


class Trace(NamedTuple):
    """A document as its source gave it, and the steps it went through.

    Each step saw the first of the examples that the step before it made.
    """

    source: Example
    steps: tuple[Step, ...]


class Traces(NamedTuple):
    """Documents that reached the end, and how many before or between them a step left out."""

    documents: tuple[Trace, ...]
    left_out: Mapping[str, int]


def trace(task, split: str, *, seed: int, count: int, shuffle: bool = True) -> Traces:
    """The first `count` documents of the task's source, in its order for `seed`, step by step.

    A preprocessor gets each document alone: one that joins examples sees no others, one that draws
    draws anew. Its end is not the order of training, which draws from a shuffle buffer.

    Raises:
      ConfigError: the task's data is not there.
    """
    dataset = task.source.get_dataset(split=split, shuffle=shuffle, seed=seed)
    stages = _stages(task, dataset.element_spec, seed)
    documents, left_out, missed = [], collections.Counter(), 0
    with errors_named(f'split {split!r} of {task.name!r}'):
        for source in dataset.as_numpy_iterator():
            steps = tuple(_walk(stages, source))
            if steps and not steps[-1].examples:
                left_out[steps[-1].name] += 1
                missed += 1
            else:
                documents.append(Trace(source, steps))
                missed = 0
            if len(documents) == count or missed == PATIENCE:
                break
    return Traces(tuple(documents), dict(left_out))


def _stages(task, spec, seed: int) -> list[tuple[str, Callable[[Example], tuple[Example, ...]]]]:
    seqio = import_seqio()
    stages = []
    with seqio.utils.map_seed_manager(seed):
        for step in task.preprocessors:
            if isinstance(step, seqio.CacheDatasetPlaceholder):
                continue  # where an offline cache would begin: nothing happens to an example
            run = seqio.utils.add_kwargs_to_transform(
                step, sequence_length=None, output_features=task.output_features
            )
            stage, spec = _stage(run, spec)
            stages.append((name_of(step), stage))
    return stages


def _stage(run: Callable, spec) -> tuple[Callable[[Example], tuple[Example, ...]], Any]:
    """A preprocessor as a function of one example, traced once, and the spec of what it makes."""
    import tensorflow as tf

    held = []
    made = run(tf.data.Dataset.from_generator(lambda: iter(held), output_signature=spec))

    def stage(example: Example) -> tuple[Example, ...]:
        held[:] = [example]
        return tuple(made.as_numpy_iterator())

    return stage, made.element_spec


def _walk(stages, example: Example) -> Iterator[Step]:
    for name, stage in stages:
        made = stage(example)
        yield Step(name, made)
        if not made:
            return
        example = made[0]


def name_of(step: Callable) -> str:
    """A preprocessor's name with the arguments it was given; a lambda by its file and line."""
    if isinstance(step, functools.partial):
        given = [repr(value) for value in step.args]
        given += [f'{name}={value!r}' for name, value in step.keywords.items()]
        return f'{name_of(step.func)}({", ".join(given)})'
    name = getattr(step, '__name__', None)
    if name == '<lambda>':
        code = inspect.unwrap(step).__code__
        return f'lambda ({Path(code.co_filename).name}:{code.co_firstlineno})'
    return name or type(step).__name__
