"""The one door to TensorFlow: a seqio task or mixture as token ids whose position can be saved."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import functools
import importlib
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from t5x_lite.data.vocabularies import VocabularyInfo, describe
from t5x_lite.errors import ConfigError, RunError, nearest

_CUDA_TALK = re.compile(rb'before absl::InitializeLog|cudart_stub|cuda_platform')


def import_seqio():
    """seqio, after TensorFlow was told to be quiet and to leave accelerators alone (8 s)."""
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
    os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')  # says so when on; nothing here needs it
    try:
        with _without_cuda_talk():
            import tensorflow as tf

            tf.config.set_visible_devices([], 'GPU')
            import seqio
    except ImportError as error:
        raise ConfigError(
            f"data: seqio cannot be imported ({error}); pip install 't5x_lite[data]'"
        ) from error
    return seqio


@contextlib.contextmanager
def _without_cuda_talk():
    """Leaves out what TensorFlow says, at any log level, of CUDA that it is not to use."""
    sys.stderr.flush()
    own = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(own, 2)
            os.close(own)
            kept.seek(0)
            rest = (line for line in kept if not _CUDA_TALK.search(line))
            os.write(2, b''.join(rest))


def find(mixture: str, imports: Iterable[str] = ()):
    """The registered task or mixture of that name, after importing the modules that register it.

    Raises:
      ConfigError: a module that does not import, or a name that nothing registered.
    """
    seqio = import_seqio()
    for module in imports:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(
                f'Experiment: imports: {module!r} does not import: {error}'
            ) from error
    known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    if mixture not in known:
        raise ConfigError(
            f'Stream: mixture {mixture!r} is registered by none of imports={tuple(imports)}; '
            f'{nearest(mixture, known)}; name the module that registers it in imports or --import'
        )
    return seqio.get_mixture_or_task(mixture)


def text_vocabulary(stream, imports: Iterable[str] = ()):
    """The seqio.Vocabulary of the last feature that a stream's objective reads.

    Raises:
      ConfigError: the mixture lacks a feature that the objective reads.
    """
    mixture, features = stream.mixture, stream.objective.converter.features
    return _last_vocabulary(mixture, features, imports)


def vocabulary(mixture: str, features: Iterable[str], imports=()) -> VocabularyInfo:
    """What is known of the vocabulary of the mixture's last feature that the objective reads.

    Raises:
      ConfigError: the mixture lacks a feature.
    """
    return describe(_last_vocabulary(mixture, features, imports))


def _last_vocabulary(mixture: str, features: Iterable[str], imports: Iterable[str]):
    known = find(mixture, imports).output_features
    for feature in features:
        if feature not in known:
            raise ConfigError(
                f'Stream: mixture {mixture!r} has no feature {feature!r}, which its objective '
                f'reads; it has {", ".join(known)}'
            )
    return known[feature].vocabulary


def rates(mixture: str, split: str, own=None, imports: Iterable[str] = ()) -> dict[str, Any]:
    """The rate of each task of a mixture that has the split, {the task's name: 1.0} of a task.

    `own` are rates in place of the mixture's, a number or a function of the step for each task; or
    a function from sizes to rates, such as `mixing.BySize()`.

    Raises:
      ConfigError: rates that name other tasks than the mixture has; a task of unknown size.
    """
    provider = find(mixture, imports)
    tasks = getattr(provider, 'tasks', [provider])
    tasks = [task for task in tasks if split in (task.splits or ())] or tasks
    names = [task.name for task in tasks]
    if own is None:
        return {t.name: provider.get_rate(t) for t in tasks} if len(tasks) > 1 else {names[0]: 1.0}
    if callable(own):
        sizes = {task.name: task.num_input_examples(split) for task in tasks}
        for name, size in sizes.items():
            if not size:
                raise ConfigError(
                    f'Stream: rates={own} need the number of examples of task {name!r}, which its '
                    'source does not know; give each task a number instead'
                )
        return own(sizes)
    for name in own:
        if name not in names:
            raise ConfigError(
                f'Stream: rates name a task {name!r} that mixture {mixture!r} has not; '
                f'{nearest(name, names)}'
            )
    for name in names:
        if name not in own:
            raise ConfigError(
                f'Stream: rates lack task {name!r} of mixture {mixture!r}; give it a number, 0 to '
                'leave it out'
            )
    return {name: own[name] for name in names}


class Examples:
    """An iterator over examples {feature: int32 [n]} of one data shard, with a saveable position.

    `epochs=None` repeats for ever. The order depends on seed, shard and number of shards only.
    """

    def __init__(
        self,
        mixture: str,
        features: Iterable[str],
        *,
        split: str,
        imports: Iterable[str] = (),
        shard: int = 0,
        shards: int = 1,
        seed: int | None = None,
        shuffle: bool = False,
        epochs: int | None = 1,
    ):
        self.name = f'split {split!r} of {mixture!r}'
        # A shuffled dataset gives another order each time it is read: it is made anew.
        make = _dataset if shuffle else _dataset_once
        part = (shard, shards) if shards > 1 else None
        dataset = make(mixture, split, tuple(features), tuple(imports), part, seed, shuffle, epochs)
        self._iterator, self._endless = iter(dataset), epochs is None

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        with errors_named(self.name):
            example = next(self._iterator, None)
        if example is not None:
            return {name: value.numpy() for name, value in example.items()}
        if self._endless:
            raise ConfigError(
                f'Stream: {self.name} has no examples to repeat; mend the data or what the task '
                'leaves out of it'
            )
        raise StopIteration

    def state(self) -> dict[str, np.ndarray]:
        """The position as bytes (uint8 arrays): tf.data's own iterator checkpoint."""
        import tensorflow as tf

        with tempfile.TemporaryDirectory() as folder, errors_named(self.name):
            tf.train.Checkpoint(iterator=self._iterator).write(f'{folder}/iterator')
            files = sorted(Path(folder).iterdir())
            return {file.name: np.frombuffer(file.read_bytes(), np.uint8) for file in files}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes on from `state()` of an iterator made with the same arguments."""
        import tensorflow as tf

        with tempfile.TemporaryDirectory() as folder, errors_named(self.name):
            for name, data in state.items():
                (Path(folder) / name).write_bytes(data.tobytes())
            checkpoint = tf.train.Checkpoint(iterator=self._iterator)
            checkpoint.read(f'{folder}/iterator').assert_consumed()


@contextlib.contextmanager
def errors_named(name: str):
    """TensorFlow's errors as one RunError that says in what data they came up."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        raise RunError(f'data: {name}: {error.message[:500]}') from error


def _dataset(mixture, split, features, imports, part, seed, shuffle, epochs):
    seqio = import_seqio()
    provider = find(mixture, imports)
    if split not in (provider.splits or ()):
        raise ConfigError(
            f'Stream: mixture {mixture!r} has no split {split!r}; it has '
            f'{", ".join(provider.splits)}'
        )
    # A mixture's sampler stops with its first task: one pass over all reads one after the other.
    whole = epochs is not None and isinstance(provider, seqio.Mixture)
    datasets = [
        source.get_dataset(
            None,
            split=split,
            shuffle=shuffle,
            seed=seed,
            num_epochs=epochs,
            shard_info=seqio.ShardInfo(*part) if part else None,
            trim_output_features=False,
            try_in_mem_cache=epochs is None,
        ).map(lambda example: {name: example[name] for name in features})
        for source in (provider.tasks if whole else [provider])
    ]
    return functools.reduce(lambda a, b: a.concatenate(b), datasets)


_dataset_once = functools.cache(_dataset)
