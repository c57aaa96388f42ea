"""What a run will take and do, known before paying: sizes, memory, time, and whether it fits."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping

from t5x_lite import (
    collectives,
    flops,
    memory,
    recompute,
    sharding,
    sharding_table,
    topology,
    verdict,
)
from t5x_lite.data import sizes
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Experiment
from t5x_lite.model.backends import Auto, Dense
from t5x_lite.model.count import count
from t5x_lite.topology import Topology
from t5x_lite.tuning import summary
from t5x_lite.verdict import Outcome

NAMES = {'working': 'a layer at work'}


def lines(
    experiment: Experiment, *, devices: int | None = None, where: str | None = None
) -> Iterator[str]:
    """All that is known of a run on its devices, and on the topology `where` if one is named.

    Raises:
      ConfigError: mesh, batches and topology do not go together, or libtpu is missing.
    """
    fixed = math.prod(size for size in experiment.mesh.sizes if size > 0)
    target = topology.find(where, devices or fixed) if where else None
    if target is not None and devices not in (None, target.devices):
        raise ConfigError(
            f'--devices={devices}: {target.name} has {target.devices}; leave --devices out'
        )
    devices = target.devices if target else devices or fixed
    experiment = on_chips(experiment, target) if target else experiment
    available = target.memory if target else recompute.device_memory()
    experiment, remat = recompute.chosen(experiment, devices, available)
    mesh = sharding_table.abstract_mesh(experiment, devices)
    measure = _measure(target) if target else None
    found = memory.estimate(experiment, mesh)
    step_flops = flops.train_step_flops(experiment)
    yield from amounts(experiment, step_flops)
    yield from epochs(experiment)
    yield from rates(experiment)
    yield summary.attention(experiment, devices)
    yield remat
    yield ''
    yield f'{devices:,} devices: {sharding.shown(mesh.shape)}'
    yield from parts(found)
    yield f'checkpoint: {memory.state_bytes(experiment, mesh):,} bytes on disk'
    if target is not None:
        yield ''
        yield from on_topology(experiment, target, measure, step_flops)


def on_chips(experiment: Experiment, target: Topology) -> Experiment:
    """With attention as it is chosen there; dense for GPUs, whose kernels only they can trace."""
    if not isinstance(experiment.model.attention, Auto):
        return experiment
    auto = dataclasses.replace(experiment.model.attention, platform='tpu')
    model = dataclasses.replace(experiment.model, attention=auto if target.shape else Dense())
    return dataclasses.replace(experiment, model=model)


def amounts(experiment: Experiment, step_flops: int) -> Iterator[str]:
    """Parameters, tokens and FLOPs."""
    counts, tokens = count(experiment.model, experiment.heads), experiment.tokens_per_step
    total = counts.total + counts.padding
    yield f'parameters: {total:,}'
    yield f'tokens per step: {tokens:,}'
    yield f'FLOPs per step: {step_flops:.4g} ({step_flops / tokens:.3g} per token)'
    run = experiment.steps
    yield f'the run: {run:,} steps, {run * tokens:.4g} tokens, {run * step_flops:.4g} FLOPs'


def epochs(experiment: Experiment) -> Iterator[str]:
    """How often each task's text is read, if rows are full and its mixture's size is known."""
    for name, stream in experiment.streams.items():
        known = sizes.of(stream.mixture)
        if known is None:
            yield (
                f'epochs of {stream.mixture}: its size is not known here; measure it by '
                f't5x-lite data stats {stream.mixture} --documents 1000000000'
            )
            continue
        if isinstance(stream.rates, Mapping):
            start = {
                task: rate(0) if callable(rate) else rate for task, rate in stream.rates.items()
            }
            known = known._replace(rates={task: float(start[task]) for task in known.tasks})
        elif stream.rates is not None:
            documents = {task: size.documents for task, size in known.tasks.items()}
            known = known._replace(rates=stream.rates(documents))
        rows = (shape for k, (shape, _) in stream.spec().items() if k.endswith('_input_tokens'))
        drawn = experiment.steps * max(math.prod(shape) for shape in rows)
        for task, times in sizes.epochs(known, drawn).items():
            yield f'epochs of {task}: {times:,.2f} of {known.tasks[task].tokens:,} tokens ({name})'


def rates(experiment: Experiment) -> Iterator[str]:
    """The learning rate at the beginning, the end of its warm-up or a tenth, half, and the end."""
    optimizer, last = experiment.optimizer, experiment.steps - 1
    warmup = getattr(getattr(optimizer, 'learning_rate', None), 'warmup', None)
    early = warmup if warmup and warmup < last else last // 10
    marks = sorted({0, early, last // 2 + last % 2, last})
    texts = (f'{float(optimizer.schedule(mark)):.3g} at step {mark:,}' for mark in marks)
    yield f'learning rate: {", ".join(texts)}'


def parts(found: memory.Memory) -> Iterator[str]:
    """Memory of a device by part."""
    yield 'memory per device, an estimate from shapes:'
    for name, size in found._asdict().items():
        yield f'  {NAMES.get(name, name):<16}{_gib(size):>10} GiB'
    yield f'  {"at its peak":<16}{_gib(found.peak):>10} GiB, logits gone before gradients come'


def on_topology(
    experiment: Experiment, target: Topology, measure, step_flops: int
) -> Iterator[str]:
    """Whether it fits, how long a step takes at best, and the first change that makes it fit."""
    chip = target.chip
    shape = f', {target.shape}{" each" if target.slices > 1 else ""}' if target.shape else ''
    yield f'{target.name}: {target.chips:,} chips{shape}; of each ' + ', '.join(
        [
            f'{chip.memory / 2**30:,.1f} GiB',
            f'{chip.flops / 1e12:,.0f} TFLOP/s in bfloat16',
            f'{chip.bandwidth / 1e9:,.0f} GB/s memory',
            f'{chip.links / 1e9:,.0f} GB/s to its neighbours',
        ]
    )
    outcome = measure(experiment)
    if outcome.compiled:
        yield from compiled(outcome)
    if outcome.fits:
        yield from times(experiment, target, outcome, step_flops)
        yield f'verdict: {verdict.verdict(outcome)}'
        return
    yield f'verdict: {verdict.verdict(outcome)}'
    yield from fixes(experiment, target, outcome, measure, step_flops)


def fixes(experiment, target: Topology, outcome: Outcome, measure, step_flops) -> Iterator[str]:
    """What was tried, one change more each time, and times with the first that fits."""
    args = experiment, target.devices, outcome.available, measure
    for change, changed, found in verdict.first_fix(*args):
        options = ' '.join(f'--set {option}' for option in change)
        yield f'  tried {options}: {verdict.verdict(found)}'
        if found.fits:
            if found.compiled:
                yield from compiled(found)
            yield f'the first change that makes it fit: {options}'
            yield from times(changed, target, found, step_flops)
            return
    yield 'nothing that was tried makes it fit; use more chips, or smaller batches'


def compiled(outcome: Outcome) -> Iterator[str]:
    """What the compiler made: peak memory, time, collectives."""
    made = outcome.compiled
    yield (
        f'compiled for it in {made.seconds:.0f} s; peak {_gib(outcome.needed)} GiB per device, '
        + (f'{_gib(made.arguments)} of it arguments')
        + (f', {_gib(made.host)} GiB on its host' if made.host else '')
    )
    found = collectives.count(made.text)
    for kind, total in found.totals.items():
        yield f'  {kind}: {total.count:,} a step, {total.result:,} bytes of results per device'
    if found.unknown_loops:
        yield f'  {found.unknown_loops} loops of unknown length are counted as one turn'


def times(experiment, target: Topology, outcome: Outcome, step_flops: int) -> Iterator[str]:
    """A step's time at best, its three terms apart, and hours of the run."""
    chip, share = target.chip, target.chip.devices
    mesh = sharding_table.abstract_mesh(experiment, target.devices)
    found = memory.estimate(experiment, mesh)
    done = step_flops
    if experiment.model.recomputes:
        done += flops.forward_flops(experiment)
    if outcome.compiled:
        sent = collectives.count(outcome.compiled.text).sent
    else:
        sent = memory.exchanged(experiment, found, mesh)
    terms = {
        'compute': done / target.chips / chip.flops,
        'memory': share * memory.traffic(experiment, found, mesh) / chip.bandwidth,
        'interconnect': share * sent / chip.links,
    }
    if target.slices > 1 and chip.network:
        crossing = memory.between_slices(found, mesh)
        terms['between slices'] = share * crossing / chip.network
    each = ', '.join(f'{name} {_ms(seconds)}' for name, seconds in terms.items())
    longest = max(terms, key=terms.get)
    seconds, added = terms[longest], sum(terms.values())
    hours = experiment.steps / 3600
    yield f'a step at peak rates: {each}; bound by {longest}'
    mfu = step_flops / target.chips / chip.flops / seconds
    yield f'  {_ms(seconds)} if they overlap wholly (MFU {mfu:.0%}), {_ms(added)} if not at all'
    yield f'  the run: {hours * seconds:,.1f} to {hours * added:,.1f} hours, no input or evaluation'


def _measure(target: Topology):
    if target.shape is None:
        return functools.partial(verdict.estimated, devices=target.devices, available=target.memory)
    from t5x_lite import tpu_compile

    tpu_compile.require_compiler()
    return functools.partial(tpu_compile.compile_step, topology=target)


def _gib(size: int) -> str:
    return f'{size / 2**30:,.2f}'


def _ms(seconds: float) -> str:
    return f'{seconds * 1e3:,.1f} ms' if seconds < 10 else f'{seconds:,.1f} s'
