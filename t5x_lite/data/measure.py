"""Measures data: reads documents of tasks and batches of streams, and counts."""
# SPDX-License-Identifier: Apache-2.0

import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from t5x_lite.data import cells, seqio_source
from t5x_lite.data.loader import ShardBatches
from t5x_lite.data.show import known, open_loader, tasks_of
from t5x_lite.data.stats import (
    Histogram,
    Lengths,
    MixtureStats,
    Side,
    Speed,
    Stats,
    StreamStats,
    TaskStats,
)
from t5x_lite.data.vocabularies import VocabularyInfo

# B rows, L tokens of a row.

SECONDS = 5.0  # of a clock that a measurement of speed takes at most
BATCHES = 200  # that it takes at most

Document = Mapping[str, np.ndarray]


class Source:
    """A registered task or mixture, of which `count` documents are looked at, in memory.

    They have its features of integers, `features`, and those that are asked for as `more`; `texts`
    are the features whose vocabulary is known: not annotations (all, if it is of none).
    """

    def __init__(
        self,
        name: str,
        split: str,
        *,
        seed: int,
        count: int,
        imports: Sequence[str],
        more: Iterable[str] = (),
    ):
        self.name, self._seed, self._count = name, seed, count
        self._read = dict(split=split, imports=tuple(imports), seed=seed)
        self.provider = seqio_source.find(name, imports)
        self.split = split
        self.features = tuple(
            n
            for n, f in self.provider.output_features.items()
            if f.rank == 1 and f.dtype.is_integer
        )
        features = self.provider.output_features
        asked = (name for name in more if name in features)
        self._read['features'] = tuple(dict.fromkeys((*self.features, *asked)))
        self.texts = [n for n in self.features if known(features[n].vocabulary)] or self.features
        tasks = tasks_of(self.provider, split)
        self.documents = {task.name: self._documents(task.name) for task in tasks}

    def _open(self, name: str, **order) -> seqio_source.Examples:
        return seqio_source.Examples(name, **self._read, **order)

    def _documents(self, name: str) -> list[Document]:
        """The first documents of one pass, shuffled as training shuffles them."""
        order = dict(shuffle=self.split == 'train')
        return list(itertools.islice(self._open(name, **order), self._count))

    def stats(self) -> MixtureStats:
        tasks = {name: self._task(name, found) for name, found in self.documents.items()}
        found = seqio_source.rates(self.name, self.split)
        return MixtureStats(self.name, self.split, tasks, shares(found))

    def _task(self, name: str, documents: Sequence[Document]) -> TaskStats:
        digests = Counter(map(digest, documents))
        repeated = len(documents) - len(digests)
        features = {}
        for feature in self.features:
            info = known(self.provider.output_features[feature].vocabulary)
            features[feature] = lengths_of([d[feature] for d in documents], info)
        share = repeated / max(len(documents), 1)
        return TaskStats(name, len(documents), share, features, self._speed(name))

    def _speed(self, name: str) -> Speed | None:
        """The pipeline without shuffling, whose buffers would be filled first and not counted."""
        examples = self._open(name, shuffle=False)
        if next(examples, None) is None:
            return None
        cpu, clock, tokens = time.process_time(), time.perf_counter(), 0
        for document in itertools.islice(examples, self._count):
            tokens += sum(len(document[feature]) for feature in self.texts)
            if time.perf_counter() - clock > SECONDS:
                break
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
        return Speed(tokens, tokens / max(cpu, 1e-9), tokens / clock) if tokens else None


def shares(rates: Mapping[str, float | Callable]) -> dict[str, float]:
    """Rates at the first step over their sum."""
    now = {name: rate(0) if callable(rate) else rate for name, rate in rates.items()}
    return {name: float(rate) / max(sum(now.values()), 1e-30) for name, rate in now.items()}


def digest(document: Document) -> bytes:
    """16 bytes that two documents share if all their features are equal, id for id."""
    total = hashlib.blake2b(digest_size=16)
    for name in sorted(document):
        total.update(f'{name} {len(document[name])} '.encode() + document[name].tobytes())
    return total.digest()


def lengths_of(documents: Sequence[np.ndarray], info: VocabularyInfo | None) -> Lengths:
    """Numbers of documents that are arrays of ids [n] each."""
    sizes = np.array([len(ids) for ids in documents] or [0])
    ids = np.concatenate([*documents, np.zeros(0, np.int32)]).astype(np.int64)
    unknown = width = None
    if info is not None:
        unknown = float(np.mean(ids == info.unk)) if info.unk is not None and len(ids) else 0.0
        inside = ids[(ids >= 0) & (ids < info.size)]
        text = inside[~info.special[inside]]
        width = float(info.bytes_per_token[text].mean()) if len(text) else 0.0
    return Lengths(
        tokens=int(sizes.sum()),
        shortest=int(sizes.min()),
        median=float(np.median(sizes)),
        mean=float(sizes.mean()),
        longest=int(sizes.max()),
        histogram=Histogram.of(sizes if documents else sizes[:0]),
        unknown=unknown,
        bytes_per_token=width,
    )


def of_mixture(
    name: str, split: str, *, seed: int, documents: int, imports: Sequence[str] = ()
) -> Stats:
    """Numbers of a task or mixture over so many documents of each task."""
    source = Source(name, split, seed=seed, count=documents, imports=imports)
    return Stats(seed, {name: source.stats()})


def of_experiment(experiment, split: str, *, documents: int, batches: int) -> Stats:
    """Numbers of every stream's mixture, and of the first batches that training takes of it."""
    how = dict(seed=experiment.seed, count=documents, imports=experiment.imports)
    sources, streams, more = {}, {}, {}
    for stream in experiment.streams.values():
        more.setdefault(stream.mixture, []).extend(stream.objective.converter.features)
    for name, stream in experiment.streams.items():
        if stream.mixture not in sources:
            read = how | dict(more=more[stream.mixture])
            sources[stream.mixture] = Source(stream.mixture, split, **read)
        streams[name] = _stream(experiment, name, sources[stream.mixture], batches)
    mixtures = {name: source.stats() for name, source in sources.items()}
    return Stats(experiment.seed, mixtures, streams)


def _stream(experiment, name: str, source: Source, count: int) -> StreamStats:
    stream, split = experiment.streams[name], source.split
    converter, lengths = stream.objective.converter, stream.lengths
    loader = open_loader(experiment, name, split)
    try:
        sides, batches = sides_of(itertools.islice(loader, count))
    finally:
        loader.close()
    drawn = {n.removeprefix('examples/'): c for n, c in loader.counts.items() if '/' in n}
    info = seqio_source.vocabulary(stream.mixture, converter.features, experiment.imports)
    documents = [
        {feature: document[feature] for feature in converter.features}
        for document in itertools.chain(*source.documents.values())
    ]
    texts = [feature for feature in converter.features if feature in source.texts]
    row = max(lengths.values())
    longer = [max(len(document[text]) for text in texts) > row for document in documents]
    return StreamStats(
        name=name,
        mixture=stream.mixture,
        batches=batches,
        rows=stream.batch_size,
        sides=sides,
        longer=float(np.mean(longer)) if longer else 0.0,
        left_out=left_out(converter, lengths, info, documents, texts),
        tokens_per_cpu_second=_rate(stream, info, documents, texts),
        rates=shares(seqio_source.rates(stream.mixture, split, stream.rates)) if drawn else {},
        drawn=drawn,
    )


def sides_of(batches: Iterator[Mapping[str, np.ndarray]]) -> tuple[dict[str, Side], int]:
    """Shares over all batches, by group of arrays, and how many batches there were."""
    totals, widths, number = {}, {}, 0
    for batch in batches:
        number += 1
        for head in cells.groups({name: x.shape for name, x in batch.items()}):
            widths[head] = batch[f'{head}{cells.INPUTS}'].shape[1]
            totals.setdefault(head, Counter()).update(_count(batch, head))
    sides = {}
    for head, total in totals.items():
        used = total['used'] / total['places']
        scored = total['scored'] / max(total['used'], 1) if total['weighted'] else None
        segments = total['segments'] / max(total['rows'], 1)
        sides[head] = Side(widths[head], 1 - used, used, segments, scored)
    return sides, number


def _count(batch: Mapping[str, np.ndarray], head: str) -> dict[str, int]:
    used_BxL = cells.used(batch, head)
    segments_BxL = batch.get(f'{head}{cells.SEGMENTS}', used_BxL.astype(np.int32))
    weights_BxL = batch.get(f'{head}{cells.WEIGHTS}')
    return {
        'places': used_BxL.size,
        'used': int(used_BxL.sum()),
        'rows': int(used_BxL.any(axis=1).sum()),
        'segments': int(segments_BxL.max(axis=1).sum()),
        'weighted': int(weights_BxL is not None),
        'scored': 0 if weights_BxL is None else int((used_BxL & (weights_BxL > 0)).sum()),
    }


def left_out(converter, lengths, info: VocabularyInfo, documents, texts=('targets',)):
    """The share of text tokens of documents that no row holds; None if the rows do not tell.

    Of a document longer than the converter wants, one piece counts.
    """
    converter = getattr(converter, 'converter', converter)  # packing leaves nothing out
    cutter, kept, whole = converter.cutter(lengths, info), 0, 0
    for document in documents:
        whole += sum(_text(document[text], info) for text in texts)
        if converter.longest is not None:
            document = document | {'targets': document['targets'][: converter.longest]}
        cutter.add(document)
        kept = _add(kept, cutter, info)
    cutter.flush()  # the last row, which more documents would fill
    kept = _add(kept, cutter, info)
    return None if kept is None or not whole else max(1 - kept / whole, 0.0)


def _add(kept: int | None, cutter, info: VocabularyInfo) -> int | None:
    ready = cutter.ready()
    if kept is None or not ready:
        return kept
    rows = cutter.take(ready)
    if not hasattr(rows, 'tokens') or not hasattr(rows, 'segments'):
        return None
    return kept + _text(rows.tokens[rows.segments > 0], info)


def _text(ids: np.ndarray, info: VocabularyInfo) -> int:
    inside = ids[(ids >= 0) & (ids < info.size)]
    return len(inside) - int(info.special[inside].sum())


def _rate(stream, info: VocabularyInfo, documents: Sequence[Document], texts) -> float:
    """Tokens of documents that one thread makes batches of in a second of its CPU time."""
    sizes = [sum(len(document[text]) for text in texts) for document in documents]
    if not any(sizes):
        return 0.0
    tokens = 0

    def handed() -> Iterator[Document]:
        nonlocal tokens
        for document, size in itertools.cycle(zip(documents, sizes, strict=True)):
            tokens += size
            yield document

    how = dict(rows=stream.batch_size, seed=(0,))
    shard = ShardBatches(handed(), stream.objective.converter, stream.lengths, info, **how)
    next(shard)  # first use of tables and of memory
    began, tokens = time.thread_time(), 0
    for _ in itertools.islice(shard, BATCHES):
        if time.thread_time() - began > SECONDS / 5:
            break
    return tokens / max(time.thread_time() - began, 1e-9)
