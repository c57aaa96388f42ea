"""Any optimizer of optax as a printable value, by its name there."""
# SPDX-License-Identifier: Apache-2.0

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax

from t5x_lite.errors import ConfigError, nearest
from t5x_lite.optim import Optimizer, check_clip, clipped, per_layer

_MASKS = ('mask', 'weight_decay_mask')
_SHAPE = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # no device is asked
_TINY = {'blocks': {'kernel': _SHAPE(2, 2, 3)}, 'norm': {'scale': _SHAPE(3)}}


@dataclass(frozen=True, kw_only=True)
class Optax(Optimizer):
    """`optax.NAME(learning_rate, **settings)`: `Optax(name='lion', learning_rate=1e-4)`.

    `name` may have a module in front (`contrib.ademamix`). Each layer of a stack is an array of its
    own, so that statistics of whole arrays (LAMB's norms) are those of unstacked layers. Weight
    decay goes where the optimizer takes it and spares `no_decay`. `clip` bounds the global norm of
    the gradients. `apart=False` takes stacks as they are, for optimizers that know one number of
    all parameters (`contrib.prodigy`).

    Raises:
      ConfigError: optax has no such optimizer, it takes no such setting, or it needs more than
        gradients and parameters.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    clip: float | None = None
    apart: bool = True

    def __post_init__(self):
        super().__post_init__()
        check_clip(self)
        known = [name for name in self._parameters() if name not in ('learning_rate', *_MASKS)]
        for name in self.settings:
            if name not in known or name == 'weight_decay':
                raise ConfigError(
                    f'Optax: settings[{name!r}] is no setting of optax.{self.name}; '
                    f'{nearest(name, set(known) - {"weight_decay"})}'
                )
        self._check_decay()
        try:
            build = self.build()
            jax.eval_shape(build.update, _TINY, jax.eval_shape(build.init, _TINY), _TINY)
        except Exception as error:  # optax's optimizers raise many kinds
            raise ConfigError(
                f'Optax: name={self.name!r} cannot update parameters from gradients and a schedule '
                f'alone with settings={dict(self.settings)}, apart={self.apart}: '
                f'{str(error).splitlines()[0]}; try apart={not self.apart}, or Optax(name="adamw")'
            ) from error

    def _check_decay(self):
        parameters = self._parameters()
        if not self.weight_decay:
            return
        if 'weight_decay' not in parameters:
            raise ConfigError(
                f'Optax: weight_decay={self.weight_decay} must be 0: optax.{self.name} takes none'
            )
        if self.no_decay and not any(mask in parameters for mask in _MASKS):
            raise ConfigError(
                f'Optax: weight_decay={self.weight_decay}: optax.{self.name} decays all parameters;'
                ' try no_decay=() to let it'
            )

    def _transformation(self):
        parameters, own = self._parameters(), dict(self.settings)
        if 'weight_decay' in parameters:
            own |= {'weight_decay': self.weight_decay}
            own |= {mask: self.decayed for mask in _MASKS if mask in parameters}
        made = self._make()(learning_rate=self.schedule, **own)
        return clipped(self.clip, per_layer(made) if self.apart else made)

    def _make(self):
        """The function of optax."""
        module, names = optax, str(self.name).split('.')
        for name in names[:-1]:
            module = getattr(module, name, None)
        make = getattr(module, names[-1], None)
        if not (callable(make) and 'learning_rate' in inspect.signature(make).parameters):
            raise ConfigError(
                f'Optax: name={self.name!r} must be an optimizer of optax; '
                f'{nearest(self.name, known())}'
            )
        return make

    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self._make()).parameters


def known() -> list[str]:
    """The optimizers of optax: its functions that take a learning rate."""
    out = []
    for prefix, module in (('', optax), ('contrib.', optax.contrib)):
        for name, value in vars(module).items():
            if inspect.isfunction(value) and not name.startswith('_'):
                if 'learning_rate' in inspect.signature(value).parameters:
                    out.append(prefix + name)
    return out
