"""`config --sharding`: golden tables of the shipped large configs, and what real arrays take."""
# SPDX-License-Identifier: Apache-2.0

import math
from pathlib import Path

import fixtures
import jax
import pytest

from t5x_lite import config, main, sharding, sharding_table, step
from t5x_lite.errors import ConfigError
from t5x_lite.sharding import MeshShape

PROJECT = Path(__file__).resolve().parent.parent
LARGE = ('bert_base_wikipedia', 'gpt2_small_c4', 't5_1_1_base_c4', 't5_1_1_large_c4')


@pytest.mark.parametrize('name', LARGE)
def test_the_table_of_a_large_config_is_the_one_on_file(name, monkeypatch, capsys):
    """To write it again: the command below, its output into tests/golden/NAME.txt."""
    monkeypatch.chdir(PROJECT)
    command = ['config', f'configs/runs/{name}.gin', '--sharding', '--devices', '32']
    main.main([*command, '--set', 'mesh.fsdp=4', '--set', 'mesh.model=2'])
    golden = (PROJECT / f'tests/golden/{name}.txt').read_text()
    assert capsys.readouterr().out == golden


def test_bytes_of_the_table_are_those_of_the_arrays_on_eight_devices():
    experiment = fixtures.experiment('span', mesh=MeshShape(data=2, fsdp=2, model=2))
    state = step.make_init(experiment, sharding.make_mesh(experiment.mesh))()
    found = list(sharding_table.rows(experiment, sharding_table.abstract_mesh(experiment, 8)))
    one = jax.devices()[0]
    held = sum(
        shard.data.nbytes
        for x in jax.tree.leaves(state)
        for shard in x.addressable_shards
        if shard.device == one
    )
    assert sum(row.bytes for row in found) == held
    assert len(found) == len(jax.tree.leaves(state))
    kernel = next(row for row in found if row.path == 'encoder/blocks/mlp/wide/kernel')
    assert kernel.axes == ('layers', 'embed', 'mlp') and kernel.shape == (2, 32, 64)
    assert kernel.bytes == 4 * math.prod(kernel.shape) // 4


def test_devices_that_do_not_fit_are_refused():
    experiment = config.load(PROJECT / 'configs/runs/clm_mini.gin').experiment
    with pytest.raises(ConfigError, match='batch_size=.*data'):
        sharding_table.abstract_mesh(experiment, 7)
