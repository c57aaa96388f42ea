"""Chips and topologies by name: memory, FLOPs, bandwidths, and product names such as v5p-128."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import math
import re
from dataclasses import dataclass

from t5x_lite.errors import ConfigError, nearest

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Chip:
    """What one chip has: bytes of memory, bf16 FLOPs and bytes a second.

    `links` is what a chip sends to its neighbours, one way, over all links together, `network` its
    share of its host's connection to other slices, None where no figure is published. `devices` is
    how many JAX sees of one chip; `cores` how many a product name counts for it.
    """

    memory: int
    flops: float
    bandwidth: float
    links: float
    network: float | None = None
    devices: int = 1
    cores: int = 1


# Cloud TPU's pages on system architecture; its figures of the interconnect are of both ways, those
# of the network per pod (v5e, v6e) or per host of four chips (v5p).
TPUS = {
    'v4': Chip(memory=32 * GIB, flops=275e12, bandwidth=1.228e12, links=300e9, cores=2),
    'v5e': Chip(memory=16 * GIB, flops=197e12, bandwidth=819e9, links=200e9, network=3.125e9),
    'v5p': Chip(
        memory=95 * GIB,
        flops=459e12,
        bandwidth=2.765e12,
        links=600e9,
        network=6.25e9,
        cores=2,
    ),
    'v6e': Chip(memory=32 * GIB, flops=918e12, bandwidth=1.638e12, links=400e9, network=12.5e9),
    'tpu7x': Chip(
        memory=192 * GIB, flops=2307e12, bandwidth=7.38e12, links=600e9, devices=2, cores=2
    ),
}
# NVIDIA's data sheets, SXM modules, dense bf16; NVLink one way.
GPUS = {
    'a100-40': Chip(memory=40 * 10**9, flops=312e12, bandwidth=1.555e12, links=300e9),
    'a100': Chip(memory=80 * 10**9, flops=312e12, bandwidth=2.039e12, links=300e9),
    'h100': Chip(memory=80 * 10**9, flops=989e12, bandwidth=3.35e12, links=450e9),
    'h200': Chip(memory=141 * 10**9, flops=989e12, bandwidth=4.8e12, links=450e9),
    'b200': Chip(memory=192 * 10**9, flops=2250e12, bandwidth=8e12, links=900e9),
}
FLAT = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
CUBES = (
    *('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8', '8x8x16'),
    *('8x16x16', '16x16x16', '16x16x24'),
)
SHAPES = {'v4': CUBES[:10], 'v5e': FLAT, 'v5p': CUBES, 'v6e': FLAT, 'tpu7x': CUBES[:11]}
SYNONYMS = {'v5litepod': 'v5e', 'v5lite': 'v5e', 'v6': 'v6e', 'v7x': 'tpu7x', 'ironwood': 'tpu7x'}
SYNONYMS |= {'trillium': 'v6e'}


@dataclass(frozen=True)
class Topology:
    """Slices of a TPU, or a number of GPUs (`shape` None), and its product name.

    `chips` are those of all slices, `shape` is one slice's.
    """

    name: str
    family: str
    chip: Chip
    chips: int
    shape: str | None = None
    slices: int = 1

    @property
    def devices(self) -> int:
        """How many devices JAX sees."""
        return self.chips * self.chip.devices

    @property
    def memory(self) -> int:
        """Bytes of a device."""
        return self.chip.memory // self.chip.devices


def _volume(shape: str) -> int:
    return math.prod(map(int, shape.split('x')))


def products() -> dict[str, Topology]:
    """TPU slices by product name: v4, v5p and tpu7x count cores, v5e and v6e chips."""
    out = {}
    for family, shapes in SHAPES.items():
        chip = TPUS[family]
        for shape in shapes:
            chips = _volume(shape)
            name = f'{family}-{chips * chip.cores}'
            out[name] = Topology(name, family, chip, chips, shape)
    return out


def find(name: str, devices: int | None = None, flag: str = '--topology') -> Topology:
    """The topology of a product name, a shape (v5e:4x4), a family, or GPUs (gpu:h100:8).

    A family alone has as many chips as there are `devices`. `2xv5p-128` are two slices. `flag` is
    the option that messages name.

    Raises:
      ConfigError: there is none of that name; it has the nearest ones.
    """
    text = name.strip().lower()
    if text.startswith('gpu'):
        return _gpus(text, devices, flag)
    if several := re.fullmatch(r'(\d+)x([a-z].*)', text):
        slices = int(several[1])
        one = find(several[2], devices and devices // max(slices, 1), flag)
        if slices < 1 or one.shape is None:
            raise ConfigError(f'{flag}={name}: must be slices of TPUs; try 2xv5p-128')
        full = f'{slices}x{one.name}'
        return dataclasses.replace(one, name=full, chips=slices * one.chips, slices=slices)
    family, _, size = text.replace(':', '-').partition('-')
    family = SYNONYMS.get(family, family)
    if family not in TPUS:
        known = [*products(), *SYNONYMS, *(f'gpu:{gpu}:8' for gpu in GPUS)]
        raise ConfigError(f'{flag}={name}: is unknown; {nearest(text, known)}')
    own = [t for t in products().values() if t.family == family]
    for topology in own:
        if size in (topology.shape, topology.name.partition('-')[2]):
            return topology
        if not size and topology.devices == devices:
            return topology
    count = _count(size, TPUS[family].cores) if size else (devices or 1) * TPUS[family].cores
    own.sort(key=lambda t: abs(math.log(t.chips * t.chip.cores / max(count, 1))))
    rule = f'{family} has no slice of {size or f"{devices} devices"}'
    raise ConfigError(f'{flag}={name}: {rule}; nearest: {", ".join(t.name for t in own[:3])}')


def _count(size: str, cores: int) -> int:
    """The number that a product name would have for a size or a shape; 1 for what is neither."""
    parts = size.split('x')
    if not all(part.isdigit() for part in parts):
        return 1
    return _volume(size) * (cores if len(parts) > 1 else 1)


def _gpus(text: str, devices: int | None, flag: str) -> Topology:
    """`gpu:h100:8`, or `gpu:h100` for as many as there are devices."""
    _, kind, count = (*text.split(':'), '', '')[:3]
    if kind not in GPUS:
        raise ConfigError(f'{flag}={text}: {kind!r} is no GPU here; {nearest(kind, GPUS)}')
    if count and (not count.isdigit() or int(count) < 1):
        raise ConfigError(f'{flag}={text}: {count!r} must be a number of GPUs; try gpu:{kind}:8')
    chips = int(count or devices or 8)
    return Topology(f'gpu:{kind}:{chips}', kind, GPUS[kind], chips)
