"""Does a run fit its devices, and the first change that makes it fit: tried, not guessed."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

from t5x_lite import memory, sharding_table
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Experiment
from t5x_lite.sharding import AXES, MeshShape

TRIES = 4


class Outcome(NamedTuple):
    """Bytes that a device needs and has. `compiled` is what the compiler made, if it did."""

    needed: int
    available: int
    compiled: object = None
    refused: bool = False  # by the compiler, for memory

    @property
    def fits(self) -> bool:
        return self.needed <= self.available and not self.refused


class Tried(NamedTuple):
    """A change, as options of the command line, the experiment with it, and how it went."""

    change: tuple[str, ...]
    experiment: Experiment
    outcome: Outcome


def estimated(experiment: Experiment, devices: int, available: int) -> Outcome:
    """The outcome by `memory.estimate`."""
    mesh = sharding_table.abstract_mesh(experiment, devices)
    return Outcome(memory.estimate(experiment, mesh).peak, available)


def first_fix(
    experiment: Experiment, devices: int, available: int, measure: Callable[..., Outcome]
) -> Iterator[Tried]:
    """Changes in order of their price, measured until one fits, at most TRIES of them.

    remat='dots', where the estimate says that it is enough; remat='full', which costs a forward;
    then more `fsdp` too, as much as the estimate asks for, which costs gathers; then twice, and
    four times, the microbatches.
    """
    for count, (change, changed) in enumerate(changes(experiment, devices, available)):
        outcome = measure(changed)
        yield Tried(change, changed, outcome)
        if outcome.fits or count + 1 == TRIES:
            return


def changes(experiment: Experiment, devices: int, available: int) -> Iterator[tuple]:
    """(options, experiment), each a change more; those that do not divide are left out."""
    options, remat = (), experiment.model.remat
    for policy in {'none': ('dots', 'full'), 'dots': ('full',)}.get(remat, ()):
        model = dataclasses.replace(experiment.model, remat=policy)
        experiment = dataclasses.replace(experiment, model=model)
        options = (f'model.remat={policy}',)
        if policy == 'full' or estimated(experiment, devices, available).fits:
            yield options, experiment
    if split := _more_fsdp(experiment, devices, available):
        experiment, options = split, (*options, f'mesh.fsdp={split.mesh.fsdp}')
        yield options, experiment
    for times in (2, 4, 8):
        parts = experiment.microbatches * times
        try:
            cut = dataclasses.replace(experiment, microbatches=parts)
            cut.check_devices(devices)
        except ConfigError:
            return
        yield (*options, f'microbatches={parts}'), cut


def _more_fsdp(experiment: Experiment, devices: int, available: int) -> Experiment | None:
    """The smallest larger fsdp that fits by the estimate, or the largest there is."""
    sizes, best = dict(zip(AXES, experiment.mesh.resolve(devices), strict=True)), None
    shared = sizes['data'] * sizes['fsdp']  # what these two have together
    for fsdp in (size for size in range(sizes['fsdp'] + 1, shared + 1) if shared % size == 0):
        try:
            mesh = MeshShape(**{**sizes, 'data': -1, 'fsdp': fsdp})
            changed = dataclasses.replace(experiment, mesh=mesh)
            outcome = estimated(changed, devices, available)
        except ConfigError:
            continue
        best = changed
        if outcome.fits:
            break
    return best


def verdict(outcome: Outcome) -> str:
    """`fits: 9.8 of 16.0 GiB ...` or `does not fit: ... over`."""
    gib = lambda size: f'{size / 2**30:,.1f}'
    both = f'{gib(outcome.needed)} of {gib(outcome.available)} GiB per device'
    over = outcome.needed - outcome.available
    if outcome.fits:
        return f'fits: {both}, {gib(-over)} GiB free'
    return f'does not fit: {both}, {gib(over)} GiB over'
