"""What Google Cloud calls a TPU slice: type, runtime version, node labels; and its hosts."""
# SPDX-License-Identifier: Apache-2.0

from dataclasses import dataclass
from typing import NamedTuple

from t5x_lite import topology
from t5x_lite.errors import ConfigError
from t5x_lite.topology import FLAT, Topology


class Names(NamedTuple):
    """A family's prefix of accelerator types, its runtime version, its node label on GKE."""

    accelerator: str | None  # None: not offered as TPU VMs
    runtime: str | None
    label: str


# cloud.google.com/tpu/docs: `v5e` to `v4` (accelerator types), `runtimes` (software versions for
# JAX), `queued-resources` (TPU7x is offered by GKE alone); the labels are those of
# cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus.
NAMES = {
    'v4': Names('v4', 'tpu-ubuntu2204-base', 'tpu-v4-podslice'),
    'v5e': Names('v5litepod', 'v2-alpha-tpuv5-lite', 'tpu-v5-lite-podslice'),
    'v5p': Names('v5p', 'v2-alpha-tpuv5', 'tpu-v5p-slice'),
    'v6e': Names('v6e', 'v2-alpha-tpuv6e', 'tpu-v6e-slice'),
    'tpu7x': Names(None, None, 'tpu7x'),
}


@dataclass(frozen=True)
class Machine:
    """One or more equal slices of TPUs, under the names that gcloud and GKE have for them."""

    target: Topology

    @property
    def names(self) -> Names:
        return NAMES[self.target.family]

    @property
    def chips_per_host(self) -> int:
        """A slice of up to eight v5e or v6e chips is one host, larger ones have four on each."""
        chips = self.target.chips // self.target.slices
        return chips if chips <= 4 or (chips == 8 and self.target.shape in FLAT) else 4

    @property
    def hosts(self) -> int:
        """Hosts of one slice."""
        return self.target.chips // self.target.slices // self.chips_per_host

    @property
    def accelerator_type(self) -> str:
        """gcloud's name of one slice, such as v5litepod-64."""
        size = self.target.name.rpartition('-')[2]
        return f'{self.names.accelerator}-{size}'

    @property
    def runtime(self) -> str:
        return self.names.runtime


def find(name: str) -> Machine:
    """The TPU slices of a product name (v5e-64, 2xv5p-128) or a shape (v5e:8x8).

    Raises:
      ConfigError: there are none of that name; it has the nearest ones.
    """
    target = topology.find(name, flag='--type')
    if target.shape is None:
        raise ConfigError(f'--type={name}: must be a TPU slice; try v5e-16')
    return Machine(target)
