"""Learning-rate schedules as printable values: a call maps the step to a float32 scalar."""
# SPDX-License-Identifier: Apache-2.0

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp

from t5x_lite.errors import ConfigError

# schedule(t) is used for update t + 1, t from 0; t is a Python int or a traced integer.
Schedule = Callable


def require(owner, field: str, holds: bool, rule: str, instead) -> None:
    """ConfigError naming owner, field, value, rule and a value to try, unless `holds`."""
    if not holds:
        value = getattr(owner, field)
        name = type(owner).__name__
        raise ConfigError(f'{name}: {field}={value!r} must be {rule}; try {field}={instead!r}')


def is_number(value, low: float = 0.0) -> bool:
    """A finite int or float, at least `low`."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return real and math.isfinite(value) and value >= low


def lowest(value: float | Schedule, steps: int) -> float:
    """The least of a number, or of a schedule over a run at 100 steps spread over it.

    The schedules of this file are never negative, which their fields ensure: they are not asked.
    """
    if not callable(value):
        return value
    if type(value).__module__ == __name__:
        return 0.0
    points = range(0, steps + 1, max(1, steps // 100))
    return min(float(value(step)) for step in points)


def _require_rate(owner, field: str) -> None:
    require(owner, field, is_number(getattr(owner, field)), 'a number of 0 or more', 0.001)


def _require_steps(owner, field: str, low: int) -> None:
    value = getattr(owner, field)
    rule = f'an integer of {low} or more'
    whole = isinstance(value, float) and value.is_integer() and value >= low
    require(owner, field, type(value) is int and value >= low, rule, int(value) if whole else low)


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The same value at every step."""

    value: float

    def __post_init__(self):
        _require_rate(self, 'value')

    def __call__(self, step):
        return jnp.float32(self.value)


@dataclass(frozen=True, kw_only=True)
class Rsqrt:
    """rate / sqrt(max(t, warmup)): constant below `warmup`, then falling (Raffel et al. 2020)."""

    rate: float = 1.0
    warmup: int = 10_000

    def __post_init__(self):
        _require_rate(self, 'rate')
        _require_steps(self, 'warmup', 1)

    def __call__(self, step):
        return self.rate / jnp.sqrt(jnp.maximum(jnp.float32(step), self.warmup))


@dataclass(frozen=True, kw_only=True)
class RsqrtWarmup(Rsqrt):
    """Rsqrt with a linear ramp from 0 over its first `warmup` steps."""

    def __call__(self, step):
        return super().__call__(step) * jnp.minimum(1.0, jnp.float32(step) / self.warmup)


@dataclass(frozen=True, kw_only=True)
class _WarmedUp:
    """peak * t / warmup below `warmup`, then peak * share(t); `steps` is the end of the run."""

    peak: float
    warmup: int
    steps: int

    def __post_init__(self):
        _require_rate(self, 'peak')
        _require_steps(self, 'steps', 1)
        _require_steps(self, 'warmup', 0)
        rule = f'at most steps={self.steps}'
        require(self, 'warmup', self.warmup <= self.steps, rule, self.steps // 10)

    def __call__(self, step):
        t = jnp.float32(step)
        ramp = t / max(self.warmup, 1)
        return self.peak * jnp.where(t < self.warmup, ramp, self.share(t))

    def passed(self, t, start: int):
        """How much of start..steps has passed, from 0 to 1."""
        return jnp.clip((t - start) / max(self.steps - start, 1), 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Linear(_WarmedUp):
    """Linear warm-up to `peak`, then linear decay to 0 at `steps`."""

    def share(self, t):
        return 1.0 - self.passed(t, self.warmup)


@dataclass(frozen=True, kw_only=True)
class BertLinear(_WarmedUp):
    """Linear decay counted from step 0, replaced by the warm-up below `warmup`.

    It jumps from peak down to peak * (1 - warmup / steps) there (google-research/bert).
    """

    def share(self, t):
        return 1.0 - self.passed(t, 0)


@dataclass(frozen=True, kw_only=True)
class Cosine(_WarmedUp):
    """Linear warm-up, then half a cosine from `peak` to floor * peak at `steps`, constant after.

    `floor` is a fraction: 0, or 0.1 in GPT-3 (Brown et al. 2020).
    """

    floor: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        holds = is_number(self.floor) and self.floor <= 1
        require(self, 'floor', holds, 'a fraction of peak in [0, 1]', 0.1)

    def share(self, t):
        wave = 0.5 + 0.5 * jnp.cos(math.pi * self.passed(t, self.warmup))
        return self.floor + (1.0 - self.floor) * wave


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(_WarmedUp):
    """Linear warm-up, `peak`, and over the last `decay` steps peak * (1 - sqrt(passed)).

    Hägele et al. 2024; ModernBERT (Warner et al. 2024).
    """

    decay: int

    def __post_init__(self):
        super().__post_init__()
        _require_steps(self, 'decay', 0)
        most = self.steps - self.warmup
        rule = f'at most steps - warmup = {most}'
        require(self, 'decay', self.decay <= most, rule, most)

    def share(self, t):
        return 1.0 - jnp.sqrt(self.passed(t, self.steps - self.decay))


@dataclass(frozen=True, kw_only=True)
class SlantedTriangular:
    """From peak / ratio up to `peak` within the share `cut` of the steps, then back down.

    Howard & Ruder 2018 (ULMFiT): cut 0.1, ratio 32.
    """

    peak: float
    steps: int
    cut: float = 0.1
    ratio: float = 32.0

    def __post_init__(self):
        _require_rate(self, 'peak')
        _require_steps(self, 'steps', 1)
        holds = is_number(self.cut) and 0 < self.cut < 1 and self.steps * self.cut >= 1
        require(self, 'cut', holds, 'a share in (0, 1) of at least one step', 0.1)
        holds = is_number(self.ratio) and self.ratio >= 1
        require(self, 'ratio', holds, 'a number of 1 or more', 32.0)

    def __call__(self, step):
        t, top = jnp.float32(step), math.floor(self.steps * self.cut)
        down = 1.0 - (t - top) / (top * (1.0 / self.cut - 1.0))
        share = jnp.clip(jnp.where(t < top, t / top, down), 0.0, 1.0)
        return self.peak * (1.0 + share * (self.ratio - 1.0)) / self.ratio
