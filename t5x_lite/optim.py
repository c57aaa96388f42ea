"""Optimizers as printable values: AdamW, StableAdamW and T5's Adafactor, right on layer stacks."""
# SPDX-License-Identifier: Apache-2.0

import re
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import DictKey, keystr, tree_map_with_path

from t5x_lite import selector
from t5x_lite.errors import ConfigError
from t5x_lite.rounded_state import rounded
from t5x_lite.schedules import Rsqrt, Schedule, is_number, require

NO_DECAY = (r'(^|/)(bias|scale|relative_bias|temperature)$',)


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What all optimizers share: the rate, decay of all but `no_decay` parameters, state's type.

    `learning_rate` is a number or a schedule; `no_decay` holds regular expressions, searched in
    parameter paths such as `decoder/blocks/mlp/wide/kernel`. `state_dtype='bfloat16'` keeps moments
    in half the memory (rounded_state.py); the update is computed in float32 all the same.
    """

    learning_rate: float | Schedule
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = NO_DECAY
    state_dtype: str = 'float32'

    def __post_init__(self):
        rate = self.learning_rate
        holds = is_number(rate) or (callable(rate) and not isinstance(rate, type))
        require(self, 'learning_rate', holds, 'a number of 0 or more, or a schedule', 0.001)
        require(self, 'weight_decay', is_number(self.weight_decay), 'a number of 0 or more', 0.01)
        several = isinstance(self.no_decay, tuple | list) and all(map(_is_regex, self.no_decay))
        require(self, 'no_decay', several, 'a tuple of regular expressions', NO_DECAY)
        object.__setattr__(self, 'no_decay', tuple(self.no_decay))
        known = self.state_dtype in ('float32', 'bfloat16')
        require(self, 'state_dtype', known, 'float32 or bfloat16', 'bfloat16')

    def build(self) -> optax.GradientTransformation:
        """The optax transformation; its state lies like the parameters."""
        inner = self._transformation()
        return rounded(inner) if self.state_dtype == 'bfloat16' else inner

    def schedule(self, step):
        """The learning rate of update step + 1, a float32 scalar."""
        rate = self.learning_rate
        return rate(step) if callable(rate) else jnp.float32(rate)

    def decayed(self, params):
        """The tree of params with True where weight decay applies."""
        rules = [*((pattern, False) for pattern in self.no_decay), ('', True)]
        return tree_map_with_path(
            lambda path, _: selector.first(rules, keystr(path, simple=True, separator='/')), params
        )

    def check(self, paths: Sequence[str]) -> None:
        """ConfigError for a pattern of `no_decay`, but the default one, that is found nowhere."""
        for pattern in self.no_decay if self.no_decay != NO_DECAY else ():
            if not any(re.search(pattern, path) for path in paths):
                raise ConfigError(
                    f'{type(self).__name__}: no_decay: {pattern!r} is found in no parameter; '
                    f'{selector.near(pattern, paths)}'
                )


def check_clip(optimizer) -> None:
    """ConfigError unless `clip` is a norm or None."""
    clip = optimizer.clip
    holds = clip is None or (is_number(clip) and clip > 0)
    require(optimizer, 'clip', holds, 'a norm above 0, or None for no clipping', 1.0)


def clipped(clip: float | None, *parts) -> optax.GradientTransformation:
    """The parts, one after the other, on gradients whose global norm is `clip` at most."""
    return optax.chain(*([] if clip is None else [optax.clip_by_global_norm(clip)]), *parts)


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Kingma & Ba 2015; Loshchilov & Hutter 2019).

    param -= rate * (m / (sqrt(v) + eps) + weight_decay * param). `bias_correction=False` is BERT's
    Adam. `clip` bounds the global norm of the gradients.
    """

    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    bias_correction: bool = True
    clip: float | None = None

    def __post_init__(self):
        super().__post_init__()
        for name, usual in (('b1', 0.9), ('b2', 0.999)):
            value = getattr(self, name)
            require(self, name, is_number(value) and value < 1, 'a number in [0, 1)', usual)
        require(self, 'eps', is_number(self.eps) and self.eps > 0, 'a number above 0', 1e-8)
        check_clip(self)

    def _transformation(self):
        rate = optax.scale_by_learning_rate(self.schedule)
        return clipped(self.clip, self._direction(), rate)

    def _direction(self):
        """m / (sqrt(v) + eps) + weight_decay * param; the state's first part is Adam's."""
        adam = optax.scale_by_adam(self.b1, self.b2, self.eps)
        adam = adam if self.bias_correction else _uncorrected(adam, self.eps)
        return optax.chain(adam, optax.add_decayed_weights(self.weight_decay, self.decayed))


def _uncorrected(adam, eps: float):
    """optax's Adam without the division of its moments by 1 - b^t."""

    def update(grads, state, params=None):
        _, state = adam.update(grads, state, params)
        ratio = lambda m, v: m / (jnp.sqrt(v) + eps)
        return jax.tree.map(ratio, state.mu, state.nu), state

    return optax.GradientTransformation(adam.init, update)


@dataclass(frozen=True, kw_only=True)
class StableAdamW(AdamW):
    """AdamW whose rate is divided, per array and layer, by max(1, RMS(g / max(sqrt(v), eps))).

    Wortsman et al. 2023. The defaults are ModernBERT's (Warner et al. 2024), which decays weights
    by 1e-5 per step at its peak rate of 8e-4: weight_decay = 1e-5 / 8e-4 in AdamW's convention.
    """

    weight_decay: float = 0.0125
    b2: float = 0.98
    eps: float = 1e-6

    def _direction(self):
        adamw = super()._direction()

        def update(grads, state, params):
            updates, state = adamw.update(grads, state, params)
            nu, count = state[0].nu, state[0].count
            nu = optax.tree.bias_correction(nu, self.b2, count) if self.bias_correction else nu
            stable = lambda u, g, v: u / jnp.maximum(1.0, self._surprise(g, v))
            return jax.tree.map(stable, updates, grads, nu), state

        return per_layer(optax.GradientTransformation(adamw.init, update))

    def _surprise(self, g, v):
        return jnp.sqrt(jnp.mean(jnp.square(g) / jnp.maximum(v, self.eps**2)))


@dataclass(frozen=True, kw_only=True)
class Adafactor(Optimizer):
    """Adafactor with T5's settings (Shazeer & Stern 2018; google-research/t5x).

    No momentum; second moments, with decay 1 - t^-decay_exponent, factored over the two largest
    dimensions if both have `min_factored` or more; updates clipped to RMS `clip_rms`, then scaled
    by learning_rate * max(1e-3, RMS(param)). Weight decay is not scaled by the rate.
    """

    learning_rate: float | Schedule = Rsqrt()
    decay_exponent: float = 0.8
    min_factored: int = 128
    clip_rms: float = 1.0
    scale_by_param: bool = True

    def __post_init__(self):
        super().__post_init__()
        for name, usual in (('decay_exponent', 0.8), ('clip_rms', 1.0)):
            value = getattr(self, name)
            require(self, name, is_number(value) and value > 0, 'a number above 0', usual)
        whole = type(self.min_factored) is int and self.min_factored > 0
        require(self, 'min_factored', whole, 'an integer of 1 or more', 128)

    def _transformation(self):
        return per_layer(  # each layer of a stack is treated as an array of its own
            optax.adafactor(
                self.schedule,
                min_dim_size_to_factor=self.min_factored,
                decay_rate=self.decay_exponent,
                multiply_by_parameter_scale=self.scale_by_param,
                clipping_threshold=self.clip_rms,
                weight_decay_rate=self.weight_decay or None,
                weight_decay_mask=self.decayed,
            )
        )


def per_layer(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` on each layer of the stacks [layers, ...] below the key 'blocks', by vmap.

    Its statistics are those of unstacked layers. The state of a stack keeps the layers in front;
    what belongs to no stack (other parameters, step counts) is as in `inner`.
    """

    def init(params):
        shapes = jax.eval_shape(inner.init, tree_map_with_path(_of_a_layer, params))
        return _over_stacks(inner.init, (params,), shapes)

    def update(grads, state, params):
        return _over_stacks(inner.update, (grads, state, params), (grads, state))

    return optax.GradientTransformation(init, update)


def _over_stacks(function, args, like):
    """function(*args), mapped over the layers of each stack; its result is a tree as `like`.

    Of a stack that learns in part, arrays of equally many layers are mapped together.
    """
    leaves = jax.tree_util.tree_leaves_with_path(args[-1])  # the parameters
    stacks = {_keys(path): (_stack(path), x.shape[0]) for path, x in leaves if _stack(path)}
    for stack in sorted({*stacks.values()}):
        axes = lambda tree, stack=stack: _layer_axes(tree, stacks, stack)
        function = jax.vmap(function, axes(args), axes(like))
    return function(*args)


def _layer_axes(tree, stacks, stack):
    def own(path, _):
        keys = _keys(path)  # in a state behind those of the optimizer's own dicts
        return 0 if any(stacks.get(keys[i:]) == stack for i in range(len(keys))) else None

    return tree_map_with_path(own, tree)


def _of_a_layer(path, x):
    return jax.ShapeDtypeStruct(x.shape[1:] if _stack(path) else x.shape, x.dtype)


def _keys(path) -> tuple[str, ...]:
    """The path of a parameter, also in that of an optimizer's array for it: its dict keys."""
    return tuple(key.key for key in path if isinstance(key, DictKey))


def _stack(path) -> tuple[str, ...] | None:
    """The stack that a parameter belongs to."""
    keys = _keys(path)
    return keys[: keys.index(selector.STACK) + 1] if selector.STACK in keys else None


def _is_regex(pattern) -> bool:
    try:
        re.compile(pattern)
    except (re.error, TypeError):
        return False
    return True


def bert_adamw(learning_rate: float | Schedule) -> AdamW:
    """BERT's Adam; its rate was 1e-4 with BertLinear (Devlin et al. 2018)."""
    return AdamW(learning_rate=learning_rate, eps=1e-6, bias_correction=False, clip=1.0)


def roberta_adamw(learning_rate: float | Schedule) -> AdamW:
    """RoBERTa's: 6e-4 base, 4e-4 large, with Linear (Liu et al. 2019)."""
    return AdamW(learning_rate=learning_rate, b2=0.98, eps=1e-6)


def gpt_adamw(learning_rate: float | Schedule) -> AdamW:
    """GPT-3's: 6e-4 at 124M to 2e-4 at 1.5B parameters, with Cosine (Brown et al. 2020)."""
    return AdamW(learning_rate=learning_rate, b2=0.95, weight_decay=0.1, clip=1.0)
