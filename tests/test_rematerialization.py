"""No shipped step draws the warning of an involuntary full rematerialization: arrays made whole."""
# SPDX-License-Identifier: Apache-2.0
# XLA writes it to its log, whose level is read once: each step is compiled by a process
# of its own, which this file is too.

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from t5x_lite import config, sharding, step
from t5x_lite.sharding import MeshShape

RUNS = Path(__file__).parent.parent / 'configs/runs'
WARNING = 'nvoluntary full rematerialization'
MESHES = {
    'all three': dict(data=2, fsdp=2, model=2),
    'fsdp and model': dict(data=1, fsdp=4, model=2),
}


def compile_reshaped() -> None:
    """What the partitioner can do by making an array whole alone."""
    mesh = sharding.make_mesh(MeshShape(data=2, model=4))
    place = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))

    def reshaped(x):
        y = jax.lax.with_sharding_constraint(x * 2, place(None, ('data', 'model'))).reshape(8, 32)
        return jax.lax.with_sharding_constraint(y, place('model', None)) * 3

    like = jax.ShapeDtypeStruct((16, 16), jnp.float32, sharding=place(None, ('data', 'model')))
    jax.jit(reshaped).lower(like).compile()


def compile_step(path: str, sizes: str) -> None:
    """The train step of a config on a mesh."""
    experiment = config.load(Path(path)).experiment
    experiment = dataclasses.replace(experiment, mesh=MeshShape(**json.loads(sizes)))
    mesh = sharding.make_mesh(experiment.mesh)
    arguments = step.abstract_state(experiment, mesh), step.abstract_batches(experiment, mesh)
    step.make_train_step(experiment, mesh).lower(*arguments).compile()


def warnings(*arguments: str) -> list[str]:
    """The lines of XLA's log that have the warning, of a process that compiles."""
    quiet = {'TF_CPP_MIN_LOG_LEVEL': '1', 'XLA_FLAGS': '--xla_force_host_platform_device_count=8'}
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stderr.splitlines() if WARNING in line]


def test_the_warning_is_seen_where_the_partitioner_gives_one():
    assert warnings()


@pytest.mark.all
@pytest.mark.timeout(600)
@pytest.mark.parametrize('sizes', MESHES.values(), ids=MESHES)
@pytest.mark.parametrize('path', sorted(RUNS.glob('*.gin')), ids=lambda path: path.stem)
def test_a_shipped_step_draws_none(path, sizes):
    found = warnings(str(path), json.dumps(sizes))
    assert not found, '\n'.join(found)


if __name__ == '__main__':
    compile_step(*sys.argv[1:]) if sys.argv[1:] else compile_reshaped()
