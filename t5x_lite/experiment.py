"""Experiment and Stream: one run as one frozen value that validates itself."""
# SPDX-License-Identifier: Apache-2.0

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from t5x_lite import schedules, selector, stream_checks
from t5x_lite.errors import ConfigError, nearest
from t5x_lite.model.config import ModelConfig
from t5x_lite.objective import Objective
from t5x_lite.sharding import AXES, RULES, MeshShape


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A mixture, what we do with it, and how much of it is in each step.

    `mixture` is the name of a registered seqio task or mixture; `lengths` its features' lengths in
    tokens; `batch_size` counts rows over all devices and hosts. `rates` replaces the rates of the
    mixture's tasks: {task: a number or a schedule of the step}, or `data.mixing.BySize()`.
    """

    mixture: str
    objective: Objective
    lengths: Mapping[str, int]
    batch_size: int
    weight: float | Callable = 1.0
    rates: Mapping[str, float | Callable] | Callable | None = None

    def __post_init__(self):
        for name, length in self.lengths.items():
            if type(length) is not int or length < 1:
                raise ConfigError(
                    f"Stream '{self.mixture}': lengths[{name!r}]={length!r} must be an integer of "
                    '1 or more'
                )
        if type(self.batch_size) is not int or self.batch_size < 1:
            raise ConfigError(
                f"Stream '{self.mixture}': batch_size={self.batch_size!r} must be an integer of 1 "
                'or more'
            )
        if not callable(self.weight) and self.weight < 0:
            raise ConfigError(f"Stream '{self.mixture}': weight={self.weight} must be 0 or more")
        self.objective.converter.check(self.lengths)

    def spec(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Global shape and dtype of every array of a batch."""
        rows = self.objective.converter.spec(self.lengths)
        return {name: ((self.batch_size, *shape), dtype) for name, (shape, dtype) in rows.items()}


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """When to save and what to keep: the latest `keep`, one every `keep_every` steps, the best.

    `best` names a metric such as `eval/clm/loss`; the lowest is best unless `highest`, and
    `keep_best` of them stay.
    """

    every: int = 1000
    keep: int = 2
    keep_every: int | None = None
    best: str | None = None
    highest: bool = False
    keep_best: int = 1

    def __post_init__(self):
        for name in ('every', 'keep', 'keep_every', 'keep_best'):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f'Checkpoints: {name}={value} must be 1 or more')
        if self.keep_best > 1 and self.best is None:
            raise ConfigError(
                f'Checkpoints: keep_best={self.keep_best} needs a metric; name one, such as '
                "best='eval/clm/loss'"
            )


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run: model, streams of data with their objectives, optimizer, and how long.

    A step takes one batch of every stream; its loss is the sum of stream.weight * term.weight *
    mean. `evals` maps names to evaluators. `data_shards` fixes the order of the data: hosts divide
    them, so the same number on other hosts gives the same run. `imports` are modules that register
    tasks, loaded when data is opened.
    """

    model: ModelConfig
    streams: Mapping[str, Stream]
    optimizer: Any
    steps: int
    evals: Mapping[str, Any] = field(default_factory=dict)
    adapt: Any = None  # what is added to the model to be trained in its place (tuning/lora.py, ...)
    trainable: Any = None  # what learns: pairs (pattern, True, False or the step from which)
    rate_factors: Any = None  # pairs (pattern, factor of the learning rate); both: selector.py
    init: Any = None  # where a fresh run's weights come from (warm_start.py); None draws them
    mesh: MeshShape = MeshShape()
    rules: Mapping[str, Any] = field(default_factory=lambda: dict(RULES))
    microbatches: int = 1
    checkpoint: Checkpoints = Checkpoints()
    log_every: int = 100
    term_norms_every: int | None = None  # log each term's gradient norm; it costs a step per term
    seed: int = 0
    data_shards: int = 1
    imports: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, 'imports', tuple(self.imports))
        for name in ('steps', 'microbatches', 'log_every', 'data_shards'):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f'Experiment: {name}={value!r} must be an integer of 1 or more')
        every = self.term_norms_every
        if every is not None and (type(every) is not int or every < 1):
            raise ConfigError(
                f'Experiment: term_norms_every={every!r} must be an integer of 1 or more, or None'
            )
        if type(self.seed) is not int or self.seed < 0:
            raise ConfigError(f'Experiment: seed={self.seed!r} must be an integer of 0 or more')
        selector.check_trainable('Experiment: trainable', self.trainable)
        selector.check_factors('Experiment: rate_factors', self.rate_factors)
        if not self.streams:
            raise ConfigError('Experiment: streams={} must hold at least one Stream')
        for name, stream in self.streams.items():
            stream_checks.check(self, name, stream)
        self._check_weights()
        self.heads  # noqa: B018  two terms of one name must agree on their head
        for teacher in self.teachers.values():
            teacher.check(self.model)
        self._check_rules()
        self._check_best()
        for evaluator in self.evals.values():
            evaluator.check(self)
        if self.adapt is not None:
            self.adapt.check(self)

    def _check_weights(self) -> None:
        used = [
            name
            for name, stream in self.streams.items()
            if stream.weight != 0 and any(t.weight != 0 for t in stream.objective.terms.values())
        ]
        if not used:
            raise ConfigError(
                f'Experiment: all weights of streams or terms are 0, in {", ".join(self.streams)}; '
                'nothing would be learned; give one of them a weight above 0'
            )
        for name, stream in self.streams.items():
            rates = stream.rates if isinstance(stream.rates, Mapping) else {}
            own = {'weight': stream.weight}
            own |= {f'rates[{task!r}]': rate for task, rate in rates.items()}
            own |= {f'term {k!r} weight': term.weight for k, term in stream.objective.terms.items()}
            for what, schedule in own.items():
                low = schedules.lowest(schedule, self.steps)
                if low < 0:
                    raise ConfigError(
                        f"Stream '{name}': {what}={schedule} must never be negative, but it goes "
                        f'down to {low:.4g} within {self.steps} steps; end it at 0'
                    )

    def _check_best(self) -> None:
        best, every = self.checkpoint.best, self.checkpoint.every
        if best is None:
            return
        _, _, rest = best.partition('/')
        if rest.split('/')[0] not in self.streams:
            raise ConfigError(
                f'Experiment: checkpoint.best={best!r} must read eval/STREAM/METRIC; '
                f'{nearest(rest.split("/")[0], self.streams)}'
            )
        if best.startswith('eval/') and all(every % e.every for e in self.evals.values()):
            raise ConfigError(
                f'Experiment: checkpoint.best={best!r} is never known at a save, every {every} '
                f'steps; save at a multiple of an evaluation'
            )

    def _check_rules(self) -> None:
        for axis, target in self.rules.items():
            for name in (target,) if isinstance(target, str) else target or ():
                if name not in AXES:
                    raise ConfigError(
                        f'Experiment: rules[{axis!r}]={target!r} names no mesh axis; '
                        f'{nearest(name, AXES)}'
                    )

    def check_devices(self, devices: int) -> None:
        """ConfigError unless mesh and batches divide over that many devices."""
        sizes = dict(zip(AXES, self.mesh.resolve(devices), strict=True))
        over = [
            axis for axis in ('replica', 'data', 'fsdp') if sizes[axis] > 1 or axis != 'replica'
        ]
        ways = math.prod(sizes[axis] for axis in over) * self.microbatches
        over += ['microbatches'] if self.microbatches > 1 else []
        for name, stream in self.streams.items():
            if stream.batch_size % ways:
                better = stream_checks.multiples(stream.batch_size, ways)
                raise ConfigError(
                    f"Stream '{name}': batch_size={stream.batch_size} must divide over "
                    f'{"*".join(over)}={ways}; try {better}'
                )
            stream_checks.check_context(name, stream, sizes['context'])

    @property
    def heads(self) -> dict[str, Any]:
        """Heads of terms by term name, and parts by name; streams that name the same share it."""
        heads = {}
        for stream in self.streams.values():
            objective = stream.objective
            own = {name: term.head for name, term in objective.terms.items()}
            parts = objective.parts | objective.teachers
            for name, head in [*own.items(), *parts.items()]:
                if heads.setdefault(name, head) != head:
                    raise ConfigError(
                        f"Experiment: two terms named '{name}' have different heads, "
                        f'{heads[name]} and {head}; give one of them another name'
                    )
        return {name: head for name, head in heads.items() if head is not None}

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of heads that belong to training alone: generators, teachers, ways to them."""
        own = (s.objective.parts | s.objective.teachers for s in self.streams.values())
        ways = (n for n, head in self.heads.items() if getattr(head, 'training_only', False))
        return tuple(dict.fromkeys([*(name for parts in own for name in parts), *ways]))

    @property
    def teachers(self) -> dict[str, Any]:
        """The heads that do not learn, by name."""
        streams = self.streams.values()
        return {name: t for s in streams for name, t in s.objective.teachers.items()}

    @property
    def tokens_per_step(self) -> int:
        """Positions that a step puts through the model, padding included."""
        rows = (s.spec() for s in self.streams.values())
        inputs = (v for spec in rows for k, v in spec.items() if k.endswith('_input_tokens'))
        return sum(math.prod(shape) for shape, _ in inputs)
