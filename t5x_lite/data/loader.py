"""Batches of a stream from a background thread, with a position that is saved and restored."""
# SPDX-License-Identifier: Apache-2.0

import collections
import contextlib
import queue
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from t5x_lite.data import packing, seqio_source
from t5x_lite.data.mixing import Mixed
from t5x_lite.data.randomness import uniforms
from t5x_lite.errors import ConfigError

# A saved position is a snapshot of the sources plus the number of batches to pass over after it.
# A snapshot holds what tf.data has read ahead: some 10 MB, half a second of a thread's time.
SNAPSHOT_EVERY = 100
AHEAD = 4  # batches kept ready
PIECES, CUTTER, TASKS = 1, 2, 3  # tell random numbers of other things from those of rows
PATIENCE = 100_000  # examples in a row that may all be too short for a row


class ShardBatches:
    """One data shard's part of each batch: examples to rows to arrays.

    A row's random numbers depend on (seed, shard, row's number) only.
    """

    def __init__(self, examples, converter, lengths, vocabulary, rows: int, seed: Sequence[int]):
        self._examples, self._converter = examples, converter
        self._lengths, self._vocabulary = lengths, vocabulary
        self._cutter = converter.cutter(lengths, vocabulary, (*seed, CUTTER))
        self._rows, self._seed = rows, tuple(seed)
        self._row = self._document = 0
        self._ended = False

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """Arrays [rows, ...]; at the end of the data the last rows may be all zero (padding)."""
        if isinstance(self._examples, Mixed):
            self._examples.begin(self._row // self._rows)  # a batch is a step
        self._fill()
        count = min(self._rows, self._cutter.ready())
        if count == 0:
            raise StopIteration
        rows = self._cutter.take(count)
        draws = self._converter.draws(self._lengths)
        numbers = uniforms(self._seed, self._row, count, draws)
        self._row += count
        batch = self._converter.batch(rows, self._lengths, self._vocabulary, numbers)
        _check_segments(self._converter, batch)
        missing = self._rows - count
        pad = lambda x: np.pad(x, ((0, missing),) + ((0, 0),) * (x.ndim - 1))
        return {name: pad(x) for name, x in batch.items()} if missing else batch

    def _fill(self) -> None:
        dropped = self._cutter.dropped
        while self._cutter.ready() < self._rows and not self._ended:
            example = next(self._examples, None)
            if example is None:
                self._cutter.flush()
                self._ended = True
                return
            self._cutter.add(self._piece(example))
            if self._cutter.dropped - dropped > PATIENCE and not self._cutter.ready():
                raise ConfigError(
                    f'Stream: {PATIENCE} examples in a row were too short for '
                    f'lengths={dict(self._lengths)}; choose an objective for short texts, or join '
                    'them in the task'
                )

    def _piece(self, example: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """The example, or if its text is longer than the converter wants one piece of it, drawn."""
        longest, self._document = self._converter.longest, self._document + 1
        if longest is None or len(example['targets']) <= longest:
            return example
        tokens = example['targets']
        draw = uniforms((*self._seed, PIECES), self._document, 1, 1)[0, 0]
        start = longest * int(draw * -(-len(tokens) // longest))
        return {**example, 'targets': tokens[start : start + longest]}

    @property
    def counts(self) -> dict[str, int]:
        """So far: `dropped` documents, too short to use; `examples/TASK` if there are several."""
        drawn = self._examples.drawn if isinstance(self._examples, Mixed) else {}
        examples = {f'examples/{task}': count for task, count in drawn.items()}
        return {'dropped': self._cutter.dropped, **examples}

    def state(self) -> dict[str, np.ndarray]:
        """Flat arrays: the source's position, the cutter's remainder, the next numbers."""
        source = {f'source/{name}': value for name, value in self._examples.state().items()}
        cutter = {f'cutter/{name}': value for name, value in self._cutter.state().items()}
        numbers = {'row': np.int64(self._row), 'document': np.int64(self._document)}
        return {**source, **cutter, **numbers}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self._examples.restore(packing.under(state, 'source/'))
        self._cutter.restore(packing.under(state, 'cutter/'))
        self._row, self._document = int(state['row']), int(state['document'])


def _check_segments(converter, batch: Mapping[str, np.ndarray]) -> None:
    """ConfigError if rows are not one text and then padding, unless the converter says it packs."""
    if getattr(converter, 'packs', False):
        return
    for name, ids in batch.items():
        side, is_segments, _ = name.partition('_segment_ids')
        if not is_segments or f'{side}_order' in batch:
            continue
        if ids.max() > 1 or (np.diff(ids, axis=-1) > 0).any():
            raise ConfigError(
                f'{type(converter).__name__}: {name} must be 1 on a text and 0 after it; a '
                'converter whose rows hold several texts, or begin with none, says packs = True'
            )


class _End(NamedTuple):
    """What follows the last batch: the error that ended it, if one did."""

    error: Exception | None


class Loader:
    """This host's rows of every batch of a stream, made ahead in a thread.

    `state()` is the position after the batches handed out so far, `restore()` goes on from it.
    `place`, if given, takes each batch to where it is used, in that thread. Iterate or call `next`;
    `close()` ends the thread.
    """

    def __init__(self, shards: Mapping[int, ShardBatches], place: Callable[..., Any] | None = None):
        self._shards = shards
        self._place = place or (lambda batch: batch)
        self._queue = queue.Queue(AHEAD)
        self._stop = threading.Event()
        self._thread = self._held = None
        self._snapshot, self._since = {}, 0
        self._skip = 0
        self.counts = collections.Counter()  # up to the batch handed out last

    def restore(self, state: Mapping) -> None:
        """Before the first batch: go on where `state()` was taken, on any number of hosts."""
        if self._thread:
            raise RuntimeError('Loader.restore: comes before the first batch')
        if state['shards']:
            for index, shard in self._shards.items():
                shard.restore(state['shards'][index])
            self._snapshot = {index: state['shards'][index] for index in self._shards}
            self.counts = self._counted()
        self._since = self._skip = int(state['skip'])

    def state(self) -> dict:
        """{'shards': {index of a shard of this host: its arrays}, 'skip': batches after that}.

        No shards: the beginning of the data.
        """
        return {'shards': self._snapshot, 'skip': self._since}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if self._thread is None:
            self._thread = threading.Thread(target=self._produce, daemon=True)
            self._thread.start()
        item, self._held = self._held or self._queue.get(), None
        if isinstance(item, _End):
            self._queue.put(item)
            raise item.error or StopIteration
        batch, snapshot, self.counts = item
        self._since += 1
        if snapshot is not None:
            self._snapshot, self._since = snapshot, 0
        return batch

    def prefetch(self) -> None:
        """Takes the next batch out of the queue, if it is there: the thread makes another one now.

        To be called while the device works: both threads need Python's lock.
        """
        if self._held is None:
            with contextlib.suppress(queue.Empty):
                self._held = self._queue.get_nowait()

    def close(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()

    def _produce(self) -> None:
        error, count, seen = None, 0, collections.Counter()
        try:
            for batch in self._batches():
                count += 1
                snapshot = None
                if count > self._skip and count % SNAPSHOT_EVERY == 0:
                    snapshot = {index: shard.state() for index, shard in self._shards.items()}
                if count > self._skip:
                    seen.update(tally(batch))
                    counts = self._counted()
                    counts.update(seen)
                    self._put((self._place(batch), snapshot, counts))
                if self._stop.is_set():
                    return
        except Exception as raised:  # handed to the thread that asks for batches
            error = raised
        self._put(_End(error))

    def _counted(self) -> collections.Counter:
        counts = collections.Counter()
        for shard in self._shards.values():
            counts.update(shard.counts)
        return counts

    def _put(self, item) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue

    def _batches(self) -> Iterator[dict[str, np.ndarray]]:
        """Batches of all this host's shards, until the last of them ends."""
        while True:
            parts = [next(shard, None) for shard in self._shards.values()]
            found = next((part for part in parts if part is not None), None)
            if found is None:
                return
            padding = {name: np.zeros_like(x) for name, x in found.items()}
            parts = [padding if part is None else part for part in parts]
            yield {name: np.concatenate([part[name] for part in parts]) for name in found}


def tally(batch: Mapping[str, np.ndarray]) -> collections.Counter:
    """Tokens, places for them (padding included), and rows in which nothing is scored."""
    counts = collections.Counter()
    for name, array in batch.items():
        if name.endswith('_segment_ids'):
            counts['tokens'] += int(np.count_nonzero(array))
            counts['places'] += array.size
        elif name.endswith('_loss_weights') and array.ndim == 2:
            counts['unscored_rows'] += len(array) - int(np.count_nonzero(array.any(1)))
    return counts


def open_stream(
    stream,
    name: str,
    *,
    split: str = 'train',
    training: bool = True,
    seed: int = 0,
    imports: Sequence[str] = (),
    data_shards: int = 1,
    hosts: tuple[int, int] = (0, 1),
    own: Sequence[int] | None = None,
    vocab: int | None = None,
    place: Callable[..., Any] | None = None,
) -> Loader:
    """A Loader for this host (index, count): shuffled and endless for training, else one pass.

    `own` are the data shards that this host reads, if not its equal part of them. `vocab` is how
    many ids the model knows, if that is to be checked. `place` is the Loader's.

    Raises:
      ConfigError: no such mixture, split, feature or data; a vocabulary that the objective cannot
        use or the model does not know.
    """
    converter, lengths = stream.objective.converter, stream.lengths
    vocabulary = seqio_source.vocabulary(stream.mixture, converter.features, imports)
    converter.check(lengths, vocabulary)
    rates = {stream.mixture: 1.0}  # one pass reads one task after the other
    if training:
        rates = seqio_source.rates(stream.mixture, split, stream.rates, imports)
    if vocab is not None and vocabulary.size > vocab:
        raise ConfigError(
            f"Stream '{name}': the vocabulary of {stream.mixture!r} has {vocabulary.size} ids, but "
            f'model.vocab={vocab}; try model.vocab={vocabulary.size}'
        )
    source = dict(split=split, imports=imports, shards=data_shards, seed=seed, shuffle=training)
    source |= dict(epochs=None if training else 1)
    rows, keys = stream.batch_size // data_shards, (seed, zlib.crc32(name.encode()))
    equal, shards = _own_shards(data_shards, *hosts), {}
    for shard in equal if own is None else own:
        read = lambda task, shard=shard: seqio_source.Examples(
            task, converter.features, shard=shard, **source
        )
        sources, seed = {task: read(task) for task in rates}, (*keys, shard)
        one = next(iter(sources.values()))
        examples = one if len(sources) == 1 else Mixed(sources, rates, (*seed, TASKS))
        shards[shard] = ShardBatches(examples, converter, lengths, vocabulary, rows=rows, seed=seed)
    return Loader(shards, place)


def _own_shards(data_shards: int, host: int, hosts: int) -> range:
    if data_shards % hosts:
        raise ConfigError(
            f'Experiment: data_shards={data_shards} must be a multiple of the number of hosts '
            f'{hosts}; try {-(-data_shards // hosts) * hosts}'
        )
    each = data_shards // hosts
    return range(host * each, (host + 1) * each)
