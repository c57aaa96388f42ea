"""What computes attention, as values: dense, flash (TPU), cuDNN (GPU), or the one that suits."""
# SPDX-License-Identifier: Apache-2.0
# A backend has `refusal(case)` and `choose(case)`; one that computes has `mask(sight)`, made once a
# pass, `bias(positions, weights, sight)` and `attend`. Kernels are imported where they run, so that
# reading a config stays fast.

from dataclasses import dataclass
from typing import Any, NamedTuple

from t5x_lite import sharding
from t5x_lite.errors import ConfigError
from t5x_lite.model.masks import Sight, Window

KERNELS = {'tpu': lambda: Flash(), 'gpu': lambda: Cudnn()}
SHORTEST = {'tpu': 2048, 'gpu': 64}  # rows for which they are taken; docs/performance.md
DENSELY = 'set attention=Auto(), which takes dense attention there'


class Case(NamedTuple):
    """What decides on a backend, known before anything runs; a config alone knows the first five.

    `bias` are the positions that add one to the scores.
    """

    dtype: str
    head_size: int
    bias: Any
    cap: float | None
    dropout: float
    heads: int = 0
    name: str = ''  # of the attention: encoder, decoder, cross
    platform: str | None = None  # None: not known
    lengths: tuple[int, int] = (0, 0)  # of queries and of keys
    prefix: bool = False
    order: bool = False
    plain: bool = False  # Sight.is_plain
    uneven: str | None = None  # what does not divide over the mesh

    @property
    def shown(self) -> str:
        return f'{self.name} {self.lengths[0]:,} x {self.lengths[1]:,}'


class Refusal(NamedTuple):
    """Why a backend cannot compute a case, and what to do."""

    rule: str
    fix: str = DENSELY

    def error(self, backend, where: str = '') -> ConfigError:
        return ConfigError(f'ModelConfig: attention={backend} {self.rule}{where}; {self.fix}')


class Choice(NamedTuple):
    """A backend and, in a few words, why it."""

    backend: Any
    why: str


class Seen(NamedTuple):
    """What one attention of a pass sees, and what computes it."""

    backend: Any
    sight: Sight
    mask: Any = None  # [B, L, M], where the backend works from it
    window: Window | None = None  # this layer's

    @property
    def layer_mask(self):
        """The mask of this layer, [1 or B, L, M]; None without mask and window."""
        if self.window is None:
            return self.mask
        near = self.window.mask(self.sight)
        return near if self.mask is None else self.mask & near


class _Fixed:
    """A backend that is named: what it cannot do is an error."""

    def choose(self, case: Case) -> Choice:
        if refusal := self.refusal(case):
            raise refusal.error(self, f' in {case.shown}')
        return Choice(self, 'as set')


@dataclass(frozen=True)
class Dense(_Fixed):
    """All scores at once, [B, H, L, M] in float32: any case, any device."""

    def refusal(self, case: Case) -> Refusal | None:
        return None

    def mask(self, sight: Sight):
        return sight.mask()

    def bias(self, positions, weights, sight: Sight):
        return positions.bias(weights, sight.query_L, sight.key_M, not sight.causal)

    def attend(self, config, q_BxHxLxK, k_BxGxMxK, v_BxGxMxK, seen, *, past, bias, key):
        from t5x_lite.model.attention import attend

        return attend(
            q_BxHxLxK,
            k_BxGxMxK,
            v_BxGxMxK,
            past=past,
            mask=seen.layer_mask,
            bias=bias,
            scale=config.attention_scale,
            cap=config.attention_cap,
            rate=config.dropout,
            key=key,
        )


@dataclass(frozen=True, kw_only=True)
class Flash(_Fixed):
    """The Pallas kernel of `flash.py`, for TPUs: no array [L, M], T5's bias made inside.

    It makes blocks of `block` x `block` scores; `interpret` computes it without a TPU, slowly.
    """

    block: int = 128
    interpret: bool = False

    def __post_init__(self):
        if type(self.block) is not int or self.block < 8 or self.block % 8:
            raise ConfigError(f'Flash: block={self.block!r} must be a multiple of 8; try 128')

    def refusal(self, case: Case) -> Refusal | None:
        if case.platform not in ('tpu', None) and not self.interpret:
            return Refusal(f'is a kernel for TPUs, here {case.platform}')
        if case.dropout:
            rule = f'drops no attention, here dropout={case.dropout}'
            return Refusal(rule, f'set dropout=0.0, or {DENSELY.removeprefix("set ")}')
        if case.bias is not None and not case.bias.has_table:
            return Refusal(f'knows no bias but Relative, here positions={case.bias}')
        if case.prefix:
            return Refusal('has no prefix that is seen both ways')
        if case.order:
            return Refusal('has no order in which tokens see each other')
        return Refusal(case.uneven) if case.uneven else None

    def mask(self, sight: Sight):
        return None

    def bias(self, positions, weights, sight: Sight):
        return positions.table(weights)

    def attend(self, config, q_BxHxLxK, k_BxGxMxK, v_BxGxMxK, seen, *, past, bias, key):
        from t5x_lite.model import kernels

        heads = q_BxHxLxK, k_BxGxMxK, v_BxGxMxK
        return kernels.flash(self, config, *heads, seen.sight, seen.window, bias)


@dataclass(frozen=True)
class Cudnn(_Fixed):
    """cuDNN's fused attention, for GPUs.

    It is told the lengths of rows of one text each, and reads the mask of others as an array
    [B, L, M]; a bias [H, L, M] it can only have in the first case.
    """

    def refusal(self, case: Case) -> Refusal | None:
        if case.name and (here := case.platform or sharding.platform()) != 'gpu':
            return Refusal(f'needs a GPU, here {here}')
        if case.dtype != 'bfloat16':
            return Refusal(f'is for bfloat16, here dtype={case.dtype!r}', "set dtype='bfloat16'")
        if case.head_size % 8 or case.head_size > 128:
            rule = f'wants heads of a multiple of 8 up to 128, here head_size={case.head_size}'
            return Refusal(rule)
        if case.dropout:
            return Refusal(f'drops no attention, here dropout={case.dropout}', 'set dropout=0.0')
        if case.bias is not None and case.name and not case.plain:
            rule = 'has no gradient of a bias beside the mask of packed rows or prefixes'
            return Refusal(f'{rule}, here positions={case.bias}')
        if case.cap is not None:
            return Refusal(f'has no soft cap, here attention_cap={case.cap}')
        if any(length % 2 for length in case.lengths):
            return Refusal('wants even lengths')
        return Refusal(case.uneven) if case.uneven else None

    def mask(self, sight: Sight):
        return None if sight.is_plain else sight.mask()

    def bias(self, positions, weights, sight: Sight):
        return positions.bias(weights, sight.query_L, sight.key_M, not sight.causal)

    def attend(self, config, q_BxHxLxK, k_BxGxMxK, v_BxGxMxK, seen, *, past, bias, key):
        from t5x_lite.model import kernels

        return kernels.cudnn(config, q_BxHxLxK, k_BxGxMxK, v_BxGxMxK, seen, bias)


@dataclass(frozen=True, kw_only=True)
class Auto:
    """The kernel of the device where it can compute the case in bfloat16 and rows are long.

    Long is `shortest` tokens seeing as many, or as many pairs; None for what suits the kernel.
    `platform` ('cpu', 'gpu', 'tpu') is chosen for in place of that of the devices at hand.
    """

    shortest: int | None = None
    platform: str | None = None

    def __post_init__(self):
        shortest = 1 if self.shortest is None else self.shortest
        if type(shortest) is not int or shortest < 1:
            raise ConfigError(f'Auto: shortest={self.shortest!r} must be an integer of 1 or more')
        if self.platform not in (None, 'cpu', *KERNELS):
            raise ConfigError(f"Auto: platform={self.platform!r} must be 'cpu', 'gpu' or 'tpu'")

    def refusal(self, case: Case) -> Refusal | None:
        return None

    def choose(self, case: Case) -> Choice:
        platform = self.platform or case.platform or sharding.platform()
        if platform not in KERNELS:
            return Choice(Dense(), platform)
        queries, keys = case.lengths
        shortest = SHORTEST[platform] if self.shortest is None else self.shortest
        if queries * keys < shortest**2:
            return Choice(Dense(), f'{platform}, below {shortest:,} tokens')
        if case.dtype != 'bfloat16':
            return Choice(Dense(), f'{platform}, {case.dtype}')
        kernel = KERNELS[platform]()
        if refusal := kernel.refusal(case._replace(platform=platform)):
            return Choice(Dense(), f'{platform}, as {name(kernel)} {refusal.rule}')
        return Choice(kernel, f'{platform}, {case.dtype}')


def name(backend) -> str:
    return type(backend).__name__.lower()
