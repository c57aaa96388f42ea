"""Warm starts: values for `Experiment.init`, weights from another run or from published files."""
# SPDX-License-Identifier: Apache-2.0

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from t5x_lite.errors import ConfigError, nearest

# What reads files imports what it needs in `open`: reading a config stays fast.


class Opened(NamedTuple):
    """Weights found and checked but not read.

    `told` says in words what is loaded, new and left out; `fresh` are the paths of what is new;
    `load` makes the other arrays, each placed as its shape in {path: shape} is; `keep` is a folder
    whose config.json and tokenizer files belong to these weights. `parts` are arrays of `fresh`
    that are loaded too, as far as they go: {path: (dimension, how many along it)}.
    """

    told: str
    fresh: list[str]
    load: Callable[[Mapping[str, Any]], dict[str, Any]]
    keep: Path | None = None
    parts: Mapping[str, tuple[int, int]] = {}


class Init(Protocol):
    """Where a fresh run's weights come from. A run that goes on does not ask."""

    def open(self, model, heads: Mapping[str, Any], shapes: Mapping[str, tuple]) -> Opened:
        """Checks everything before memory is taken; ConfigError if something does not fit."""


def open_all(init: Init | None, model, heads, teachers: Mapping, shapes) -> Opened | None:
    """Weights of a model and of the teachers among its heads; None if all are to be drawn.

    Teachers whose `init` is None are drawn, too.

    Raises:
      ConfigError: something that does not fit; a weight that a teacher's source lacks.
    """
    if init is None and all(teacher.init is None for teacher in teachers.values()):
        return None
    prefixes = {name: f'heads/{name}/' for name in teachers}
    own = {p: s for p, s in shapes.items() if not p.startswith(tuple(prefixes.values()))}
    parts = {'': init.open(model, heads, own) if init else Opened('', sorted(own), lambda like: {})}
    drawn = tuple(prefix for name, prefix in prefixes.items() if teachers[name].init is None)
    for name, prefix in prefixes.items():
        if prefix in drawn:
            continue
        inside = {p.removeprefix(prefix): s for p, s in shapes.items() if p.startswith(prefix)}
        part = teachers[name].init.open(teachers[name].model, teachers[name].heads, inside)
        if part.fresh:
            raise ConfigError(f"teacher '{name}': its source lacks {', '.join(part.fresh[:12])}")
        parts[prefix] = part

    def load(like):
        out = {}
        for prefix, part in parts.items():
            inside = {p.removeprefix(prefix): x for p, x in like.items() if p.startswith(prefix)}
            if not prefix:
                inside = {path: x for path, x in inside.items() if path in own}
            out |= {prefix + path: x for path, x in part.load(inside).items()}
        return out

    told = [
        part.told if not prefix else f'{prefix[:-1]}: {part.told}' for prefix, part in parts.items()
    ]
    fresh = [*parts[''].fresh, *(path for path in shapes if path.startswith(drawn))]
    return Opened('\n'.join(filter(None, told)), fresh, load, parts[''].keep, parts[''].parts)


@dataclass(frozen=True, kw_only=True)
class HuggingFaceFiles:
    """config.json and safetensors of a folder. With `strict`, tensors of no use are an error."""

    path: str
    strict: bool = True

    def open(self, model, heads, shapes) -> Opened:
        from t5x_lite.interop import hugging_face, transfer

        source = hugging_face.open_folder(self.path)
        plan = hugging_face.plan(source, model, heads, shapes)
        unknown = hugging_face.unknown(source, plan.unread)
        if self.strict and unknown:
            raise ConfigError(
                f'{self.path}: {len(unknown)} tensors have no place in a {source.family.model_type}'
                f' model: {", ".join(unknown[:12])}; leave them out with strict=False'
            )
        load = lambda like: dict(transfer.load(plan.loaded, source.tensors, like))
        told = f'{self.path}: {transfer.describe(plan, shapes, source.tensors)}'
        return Opened(told, plan.fresh, load, Path(self.path))


def from_hf(path: str, *, strict: bool = True) -> HuggingFaceFiles:
    """Weights of a folder with config.json and model.safetensors, as transformers writes them.

    The model must be of the same architecture; heads that the folder lacks start fresh.
    """
    return HuggingFaceFiles(path=path, strict=strict)


@dataclass(frozen=True, kw_only=True)
class T5XCheckpoint:
    """The parameters of a T5X checkpoint. With `strict`, arrays of no use are an error."""

    path: str
    strict: bool = True

    def open(self, model, heads, shapes) -> Opened:
        from t5x_lite.interop import t5x, transfer

        plan, tensors = t5x.plan(self.path, model, shapes)
        if self.strict and plan.unread:
            raise ConfigError(
                f'{self.path}: {len(plan.unread)} arrays have no place in the model: '
                f'{", ".join(plan.unread[:12])}; give it the same sizes, or leave them out with '
                'strict=False'
            )
        load = lambda like: dict(transfer.load(plan.loaded, tensors, like))
        told = f'{self.path}: {transfer.describe(plan, shapes, tensors)}'
        return Opened(told, plan.fresh, load)


def from_t5x(path: str, *, strict: bool = True) -> T5XCheckpoint:
    """Weights of a T5X checkpoint, a folder `checkpoint_N` that Orbax wrote.

    The model must be the T5 of these sizes (presets t5_*, t5_1_1_*, mt5_*, byt5_*; umt5_* for
    checkpoints with a relative bias in every layer); its heads start fresh.
    """
    return T5XCheckpoint(path=path, strict=strict)


@dataclass(frozen=True, kw_only=True)
class CheckpointWeights:
    """The weights of a run's checkpoint that have a place in the model."""

    path: str
    step: int | None = None
    rename: tuple[tuple[str, str], ...] = ()
    resize_vocab: bool = False

    def __post_init__(self):
        object.__setattr__(self, 'rename', tuple(tuple(pair) for pair in self.rename))
        for pair in self.rename:
            if len(pair) != 2:
                raise ConfigError(
                    f'from_checkpoint: rename has {pair!r}; each must be (pattern, replacement)'
                )
            try:
                re.compile(pair[0])
            except re.error as error:
                raise ConfigError(
                    f'from_checkpoint: rename has {pair[0]!r}, no regular expression: {error}'
                ) from error

    def open(self, model, heads, shapes) -> Opened:
        from t5x_lite import checkpoint
        from t5x_lite.interop import kept_files

        folder = Path(self.path) / 'checkpoints'
        step, saved = checkpoint.saved_shapes(folder, self.step)
        if any(path.endswith('/kernel_scale') for path in saved):
            raise ConfigError(
                f'from_checkpoint: {self.path} has its base in int8; merge it first: '
                f't5x-lite ckpt merge --from {self.path} --to NEW'
            )
        places = {self._renamed(path): path for path in saved}
        found = {ours: theirs for ours, theirs in places.items() if ours in shapes}
        resized = _resized(found, saved, shapes, model.rows)
        parts = resized if self.resize_vocab else {}
        self._check(found, saved, shapes, parts, resized)
        fresh = sorted(shapes.keys() - found.keys())
        unread = sorted(saved.keys() - set(found.values()))

        def load(like):
            saved_like = {theirs: like[ours] for ours, theirs in found.items()}
            values = checkpoint.read_arrays(folder, step, saved_like)
            return {ours: values[theirs] for ours, theirs in found.items()}

        lines = [f'{self.path}, step {step}: loaded {len(found)} arrays']
        lines += [f'new: {path} {list(shapes[path])}' for path in fresh]
        for path, (dim, size) in parts.items():
            now = shapes[path][dim]
            lines.append(f'resized: {path}, {size:,} of the vocabulary before, {now:,} now')
        lines += [f'left out: {path}' for path in unread]
        told, keep = '\n  '.join(lines), Path(self.path) / kept_files.FOLDER
        return Opened(told, [*fresh, *parts], load, keep, parts)

    def _renamed(self, path: str) -> str:
        for pattern, new in self.rename:
            path = re.sub(pattern, new, path)
        return path

    def _check(self, found, saved, shapes, parts, resized) -> None:
        if not found:
            wanted = next(iter(shapes))
            raise ConfigError(
                f'from_checkpoint: {self.path} has no array of the model: {wanted}; '
                f'{nearest(wanted, saved)}; give rename=((pattern, replacement),)'
            )
        for ours, theirs in found.items():
            if tuple(saved[theirs]) != tuple(shapes[ours]) and ours not in parts:
                fix = 'give it the same sizes, or rename what should not be loaded'
                if ours in resized:
                    fix += '; resize_vocab=True takes over a vocabulary of another size'
                raise ConfigError(
                    f'from_checkpoint: {self.path} has {theirs} {list(saved[theirs])}, but the '
                    f'model has {ours} {list(shapes[ours])}; {fix}'
                )


def _resized(found, saved, shapes, rows: int) -> dict[str, tuple[int, int]]:
    """Arrays that differ in the dimension of the vocabulary alone: it, and its size when saved."""
    out = {}
    for ours, theirs in found.items():
        now, before = tuple(shapes[ours]), tuple(saved[theirs])
        dims = [i for i, pair in enumerate(zip(now, before, strict=False)) if len({*pair}) > 1]
        if len(now) == len(before) and len(dims) == 1 and now[dims[0]] == rows:
            out[ours] = dims[0], before[dims[0]]
    return out


def from_checkpoint(
    path: str,
    *,
    step: int | None = None,
    rename: tuple[tuple[str, str], ...] = (),
    resize_vocab: bool = False,
) -> CheckpointWeights:
    """Weights of a run folder's newest checkpoint (or of `step`), by their paths.

    `rename` holds pairs of a regular expression and its replacement, applied to saved paths such as
    `heads/mlm/dense/kernel`. What the checkpoint lacks starts fresh, what it has more is left out.
    With `resize_vocab` the vocabulary may be larger or smaller: a token keeps the row of its id,
    and ids that are new have rows as drawn. (Sentinels that are the last ids of a vocabulary are
    others in a larger one.)
    """
    return CheckpointWeights(path=path, step=step, rename=rename, resize_vocab=resize_vocab)
