"""remat='auto': the backward pass computes as little again as the devices' memory allows."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import jax

from t5x_lite import verdict
from t5x_lite.experiment import Experiment

POLICIES = ('none', 'dots', 'full')  # each keeps less than the one before and computes more again
SHARE = 0.9  # of a device's memory: the compiler has needed up to 6 % more than the estimate


def device_memory() -> int | None:
    """Bytes that a program may take of a device here, or None where it does not tell (CPU)."""
    stats = jax.local_devices()[0].memory_stats()
    return stats['bytes_limit'] if stats else None


def chosen(experiment: Experiment, devices: int, available: int | None) -> tuple[Experiment, str]:
    """(The experiment with a policy in place of 'auto', which one and why in one line).

    The first of POLICIES whose estimate (`memory.estimate`) is at most SHARE of the `available`
    bytes of a device; the last where none is. 'none' where these are not known.
    """
    if experiment.model.remat != 'auto':
        return experiment, f'remat: {experiment.model.remat} (as set)'
    if available is None:
        why = "auto, as the devices' memory is not known"
        return _with(experiment, 'none'), f'remat: none ({why})'
    limit, needed = int(SHARE * available), []
    for policy in POLICIES:
        tried = _with(experiment, policy)
        outcome = verdict.estimated(tried, devices, limit)
        needed.append(f'{policy} {outcome.needed / 2**30:,.1f}')
        if outcome.fits:
            break
    more = '' if outcome.fits else '; not even this fits'
    why = f'auto, by estimate: {", ".join(needed)} of {limit / 2**30:,.1f} GiB per device{more}'
    return tried, f'remat: {policy} ({why})'


def _with(experiment: Experiment, policy: str) -> Experiment:
    model = dataclasses.replace(experiment.model, remat=policy)
    return dataclasses.replace(experiment, model=model)
