"""The real train step through the TPU's compiler, on a machine without a TPU."""
# SPDX-License-Identifier: Apache-2.0

import importlib.util
import os
import re
import time
from typing import NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from t5x_lite import sharding, step
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Experiment
from t5x_lite.topology import GIB, Topology
from t5x_lite.verdict import Outcome

# libtpu asks the machine that it would be on; there is none. Two processes may share it.
QUIET = {
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_HOST_BOUNDS': '1,1,1',
}
OUT_OF_MEMORY = re.compile(r'([\d.]+)([KMGT])i?B?\)? exceeds available HBM \(([\d.]+)([KMGT])')
USED = re.compile(r'[Uu]sed ([\d.]+)([KMGT])i?B? of ([\d.]+)([KMGT])i?B? hbm')
UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


class Compiled(NamedTuple):
    """What the compiler made: its text, seconds it took, bytes of arguments on a device, on hosts.

    The latter are for each device: what remat's `offload` keeps there.
    """

    text: str
    seconds: float
    arguments: int
    host: int


def require_compiler() -> None:
    """ConfigError unless libtpu is installed."""
    if importlib.util.find_spec('libtpu') is None:
        raise ConfigError(
            "--topology: the TPU's compiler is not installed (it needs no TPU); run "
            "pip install 't5x_lite[tpu]', or leave --topology out for the estimate alone"
        )


def devices(topology: Topology) -> list:
    """Descriptions of a slice's devices; no TPU needs to be there."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    own = {'chip_config_name': 'megacore'} if topology.family == 'v4' else {}
    own |= {'num_slices': topology.slices} if topology.slices > 1 else {}
    if topology.shape == '1x1':
        own['chips_per_host_bounds'] = (1, 1, 1)
    name = f'{topology.family}:{topology.shape}'
    return topologies.get_topology_desc(platform='tpu', topology_name=name, **own).devices


def mesh_of(experiment: Experiment, topology: Topology) -> Mesh:
    """The experiment's mesh over a slice's devices, in their order."""
    experiment.check_devices(topology.devices)
    return sharding.make_mesh(experiment.mesh, devices(topology))


def compile_step(experiment: Experiment, topology: Topology) -> Outcome:
    """Compiles the train step for a slice: peak memory of a device, or what it would have needed.

    Raises:
      ConfigError: libtpu is missing, or mesh and batches do not divide over the slice.
    """
    require_compiler()
    mesh, began = mesh_of(experiment, topology), time.monotonic()
    arguments = step.abstract_state(experiment, mesh), step.abstract_batches(experiment, mesh)
    lowered = step.make_train_step(experiment, mesh).lower(*arguments)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return refusal(str(error), topology)
    found = compiled.memory_analysis()
    seconds, host = time.monotonic() - began, found.host_temp_size_in_bytes
    made = Compiled(compiled.as_text(), seconds, found.argument_size_in_bytes, host)
    return Outcome(found.peak_memory_in_bytes, topology.memory, made)


def refusal(message: str, topology: Topology) -> Outcome:
    """What the compiler says that it needs and has, from its message on running out of memory.

    Raises:
      ConfigError: it refused for another reason; has its first line.
    """
    if 'RESOURCE_EXHAUSTED' not in message:
        first = message.strip().splitlines()[0]
        raise ConfigError(f'--topology={topology.name}: the compiler refused the step: {first}')
    needed, available = topology.memory + 1, topology.memory
    for pattern in (OUT_OF_MEMORY, USED):
        if found := pattern.search(message):
            amount, unit, limit, limit_unit = found.groups()
            needed = int(float(amount) * UNITS[unit])
            available = int(float(limit) * UNITS[limit_unit])
            break
    return Outcome(needed, min(available, topology.memory or GIB), refused=True)
