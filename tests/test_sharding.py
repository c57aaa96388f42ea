"""The mesh: devices in slices, and axes that cross them."""
# SPDX-License-Identifier: Apache-2.0

from dataclasses import dataclass

import pytest

from t5x_lite.errors import ConfigError
from t5x_lite.sharding import AXES, MeshShape, make_mesh


@dataclass(frozen=True)
class Device:
    """What jax says of a device, as far as a mesh is concerned."""

    id: int
    slice_index: int
    platform: str
    process_index: int = 0
    device_kind: str = 'some chip'


def devices(count: int, slices: int, platform: str = 'gpu') -> list[Device]:
    """Numbered so that those of a slice are not next to each other."""
    return [Device(i, i % slices, platform) for i in range(count)]


def slices_of(mesh, axis: str) -> set[int]:
    """How many slices meet along an axis, for every place of the others."""
    lanes = mesh.devices.swapaxes(AXES.index(axis), -1).reshape(-1, mesh.shape[axis])
    return {len({device.slice_index for device in lane}) for lane in lanes}


@pytest.mark.parametrize('replica', [2, 4])
def test_replica_alone_crosses_slices(replica):
    mesh = make_mesh(MeshShape(replica=replica, fsdp=2, model=2), devices(16, slices=2))
    assert mesh.shape == dict(replica=replica, data=4 // replica, fsdp=2, context=1, model=2)
    assert slices_of(mesh, 'replica') == {2}
    assert [slices_of(mesh, axis) for axis in AXES[1:]] == [{1}] * 4


def test_other_axes_across_slices_of_a_tpu_are_refused_with_the_size_that_works():
    with pytest.raises(ConfigError) as error:
        make_mesh(MeshShape(fsdp=8), devices(8, slices=4, platform='tpu'))
    assert 'fsdp=8, model=1, but the devices are 4 slices of 2' in str(error.value)
    assert str(error.value).endswith('set mesh.replica=4')


def test_two_sizes_for_the_rest_are_refused():
    with pytest.raises(ConfigError, match=r'replica=-1, data=-1, fsdp=1, model=1 must be 1 or'):
        MeshShape(replica=-1)
