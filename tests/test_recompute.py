"""remat='auto': the policy that fits with the least work, where nothing is known, what is said."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import fixtures
import jax
import numpy as np
import pytest

from t5x_lite import check, config, recompute, step, topology, verdict
from t5x_lite.sharding import MeshShape
from t5x_lite.topology import GIB


def auto(**fields):
    return fixtures.experiment('clm', batch_size=512, model=dict(remat='auto'), **fields)


def needed(experiment, policy: str) -> int:
    model = dataclasses.replace(experiment.model, remat=policy)
    return verdict.estimated(dataclasses.replace(experiment, model=model), 4, 0).needed


@pytest.mark.parametrize('policy', recompute.POLICIES)
def test_the_first_policy_that_fits_in_its_share_is_taken(policy):
    experiment = auto()
    room = needed(experiment, policy) / recompute.SHARE
    exact, told = recompute.chosen(experiment, 4, int(room) + 2)
    assert exact.model.remat == policy and told.startswith(f'remat: {policy} (auto, by estimate:')
    assert dataclasses.replace(exact.model, remat='auto') == experiment.model
    tighter, told = recompute.chosen(experiment, 4, int(room) - 2)
    assert tighter.model.remat == {'none': 'dots', 'dots': 'full', 'full': 'full'}[policy]
    assert ('not even this fits' in told) == (policy == 'full')


def test_without_known_memory_nothing_is_computed_again():
    experiment, told = recompute.chosen(auto(), 4, recompute.device_memory())
    assert experiment.model.remat == 'none'
    assert told == "remat: none (auto, as the devices' memory is not known)"


def test_a_policy_that_is_set_stays():
    experiment = fixtures.experiment('clm', model=dict(remat='full'))
    assert recompute.chosen(experiment, 1, 1) == (experiment, 'remat: full (as set)')


def test_a_model_by_itself_computes_nothing_again():
    def jaxpr(remat):
        one = fixtures.experiment('clm', model=dict(remat=remat))
        params, model_of = step.abstract_params(one), step.model_of(one)
        tokens = np.zeros((2, 8), np.int32)
        decode = lambda params, tokens: model_of(params).decode(tokens)[0]
        return str(jax.make_jaxpr(decode)(params, tokens))

    assert jaxpr('auto') == jaxpr('none') != jaxpr('full')


@pytest.mark.one
@pytest.mark.parametrize(
    'name, where, policy',
    [('bert_base_wikipedia', 'v5e-16', 'none'), ('t5_1_1_large_c4', 'v5p-64', 'dots')],
)
def test_shipped_configs_get_what_their_chips_have_room_for(name, where, policy):
    overrides = ['model.remat=auto', 'model.attention.platform=tpu']
    experiment = config.load(f'configs/runs/{name}.gin', overrides).experiment
    target = topology.find(where, 1)
    found, told = recompute.chosen(experiment, target.devices, target.memory)
    assert found.model.remat == policy, told


def test_check_says_it_and_looks_at_what_it_means(monkeypatch):
    seen = []

    def estimated(experiment, devices, available):
        seen.append(experiment.model.remat)
        return verdict.Outcome(70 * GIB if experiment.model.remat == 'none' else GIB, available)

    monkeypatch.setattr(verdict, 'estimated', estimated)
    text = '\n'.join(check.lines(auto(mesh=MeshShape()), where='gpu:h100:4'))
    assert 'remat: dots (auto, by estimate: none 70.0, dots 1.0 of 67.1 GiB per device)' in text
    assert seen == ['none', 'dots', 'dots'] and 'verdict: fits' in text
