"""No shipped step draws the warning of an involuntary full rematerialization: arrays made whole."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
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


def test_the_warning_is_seen_where_the_partitioner_gives_one(capfd):
    mesh = sharding.make_mesh(MeshShape(data=2, model=4))
    place = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))

    def reshaped(x):
        y = jax.lax.with_sharding_constraint(x * 2, place(None, ('data', 'model'))).reshape(8, 32)
        return jax.lax.with_sharding_constraint(y, place('model', None)) * 3

    like = jax.ShapeDtypeStruct((16, 16), jnp.float32, sharding=place(None, ('data', 'model')))
    jax.jit(reshaped).lower(like).compile()
    assert WARNING in capfd.readouterr().err


@pytest.mark.all
@pytest.mark.timeout(600)
@pytest.mark.parametrize('sizes', MESHES.values(), ids=MESHES)
@pytest.mark.parametrize('path', sorted(RUNS.glob('*.gin')), ids=lambda path: path.stem)
def test_a_shipped_step_draws_none(path, sizes, capfd):
    experiment = config.load(path).experiment
    experiment = dataclasses.replace(experiment, mesh=MeshShape(**sizes))
    mesh = sharding.make_mesh(experiment.mesh)
    arguments = step.abstract_state(experiment, mesh), step.abstract_batches(experiment, mesh)
    step.make_train_step(experiment, mesh).lower(*arguments).compile()
    lines = [line for line in capfd.readouterr().err.splitlines() if WARNING in line]
    assert not lines, '\n'.join(lines)
