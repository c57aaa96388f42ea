"""LoRA, a value for `Experiment.adapt`: low-rank matrices beside frozen linear layers."""
# SPDX-License-Identifier: Apache-2.0

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from t5x_lite import selector
from t5x_lite.errors import ConfigError
from t5x_lite.schedules import is_number, require
from t5x_lite.tuning import int8_base

# Flax is imported where weights are made: reading a config stays fast.

DOWN, UP = 'adapter/down', 'adapter/up'


@dataclass(frozen=True, kw_only=True)
class Lora:
    """W + (alpha / rank) A B for the linear layers whose path the pattern is found in.

    The pattern is one of selector.py: `attention/(query|value)/` (Hu et al. 2021), or with numbers
    of layers, `encoder/blocks/(10|11)/attention/`. A is normal, B zero: at birth nothing changes.
    Adapters learn, and with `heads` the model's heads, if `Experiment.trainable` is None.
    Published: RoBERTa base rank 8, alpha 8, rate 5e-4; GPT-2 rank 4, alpha 32, rate 2e-4.
    `dropout` drops places of the adapters' input in training (0.1 for GPT-2 there); it needs
    targets inside blocks. With `int8_base` the kernels of all linear layers in blocks are int8 with
    a scale for each output (tuning/int8_base.py), rounded once, when the base is loaded.
    """

    pattern: str = 'attention/(query|value)/'
    rank: int = 8
    alpha: float = 8.0
    heads: bool = True
    dropout: float = 0.0
    int8_base: bool = False

    def __post_init__(self):
        selector.check('Lora: pattern', ((self.pattern, True),), bool, 'True')
        holds = type(self.rank) is int and self.rank >= 1
        require(self, 'rank', holds, 'an integer of 1 or more', 8)
        holds = is_number(self.alpha) and self.alpha > 0
        require(self, 'alpha', holds, 'a number above 0', 8.0)
        require(self, 'int8_base', type(self.int8_base) is bool, 'True or False', False)
        holds = is_number(self.dropout) and 0 <= self.dropout < 1
        require(self, 'dropout', holds, 'a number from 0 to below 1', 0.1)

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def check(self, experiment) -> None:
        """ConfigError if an int8 base shall learn; the pattern meets the model when it is built."""
        if self.int8_base and experiment.trainable is not None:
            raise ConfigError(
                f'Lora: int8_base=True is a base that cannot learn, but Experiment.trainable='
                f'{experiment.trainable!r} chooses what does; leave it None, or int8_base=False'
            )

    def merged(self, params: Mapping[str, Any]) -> dict:
        """The base model's parameters with the adapters' products added to them."""
        return merge(params, self.scale)

    def begun(self, params: Mapping[str, Any], key) -> dict:
        """Nothing of an adapter depends on the base, which may be rounded to int8 here."""
        return int8_base.begun(params) if self.int8_base else params

    def check_init(self, init) -> None:
        """ConfigError if adapters that a run begins with have another alpha / rank."""
        scale = getattr(init, 'scale', self.scale)
        if scale != self.scale:
            raise ConfigError(
                f'Lora: alpha={self.alpha} with rank={self.rank} scales by {self.scale}, the '
                f'adapters of {init.path} by {scale}; set alpha={scale * self.rank}'
            )

    def trainable(self, heads: Mapping[str, Any]) -> selector.Rules:
        """The adapters of the layers that the pattern is found in, and the heads."""
        # The module's path as the pattern saw it: a name behind it, no matter which.
        own = rf'^(?=.*/adapter/)(?=.*?(?:{self.pattern}))'
        rules = [(own, True), ('/adapter/', False)] if self._in_part() else [('/adapter/', True)]
        return (*rules, *([('^heads/', True)] if heads and self.heads else []), ('.*', False))

    def _in_part(self) -> bool:
        """The pattern may choose layers of a stack by their numbers."""
        return bool(re.search(r'blocks/', self.pattern))

    def apply(self, model, key) -> None:
        """Puts adapters into a fresh model; ConfigError for a target that is no linear layer."""
        import jax
        from flax import nnx

        from t5x_lite.model.adapters import LowRank
        from t5x_lite.model.layers import Linear

        flat = nnx.to_flat_state(nnx.state(model))
        shapes = {'/'.join(map(str, path)): x.shape for path, x in flat}
        for i, path in enumerate(self.targets(shapes)):
            module = _module(model, path.split('/'))
            if not isinstance(module, Linear):
                known = [p.removesuffix('/kernel') for p in shapes if p.endswith('/kernel')]
                raise ConfigError(
                    f'Lora: pattern={self.pattern!r} is found in {path}, which is no linear layer; '
                    f'choose among {", ".join(known[:8])}'
                )
            self._check_dropout(path)
            own_key = jax.random.fold_in(key, i)
            adapter = LowRank(module.kernel, self.rank, self.scale, own_key, self.dropout)
            module.adapter = nnx.data(adapter)  # the attribute was None, which nnx keeps as static
        for path in int8_base.kernels(shapes) if self.int8_base else ():
            int8_base.put(_module(model, path.split('/')[:-1]))

    def _check_dropout(self, path: str) -> None:
        if self.dropout and '/blocks/' not in path:
            raise ConfigError(
                f'Lora: dropout={self.dropout} works inside blocks, but pattern={self.pattern!r} '
                f'is found in {path}; set dropout=0.0, or choose targets in blocks'
            )

    def targets(self, shapes: Mapping[str, Any]) -> list[str]:
        """Paths of the modules that the pattern is found in, of a model's {array: shape}."""
        rules = ((self.pattern, True), ('', False))
        chosen = selector.choose(rules, shapes, 'Lora: pattern')
        found = [path for path, value in chosen.items() if value is not False]
        for path in found if self._in_part() else ():
            self._check_ends_at_layer(path, shapes[path])
        return sorted({path.rpartition('/')[0] for path in found})

    def _check_ends_at_layer(self, path: str, shape) -> None:
        """`trainable` searches the pattern in the paths of adapters, which have no kernel."""
        module, _, array = path.rpartition('/')
        for own in selector.layers(path, shape):
            if re.search(self.pattern, own) and not re.search(
                self.pattern, own.removesuffix(array)
            ):
                raise ConfigError(
                    f'Lora: pattern={self.pattern!r} is found in {own} by its last name, '
                    f"'{array}', which the adapter of {module} has not; end the pattern at the "
                    "layer's name"
                )


def _module(model, keys):
    for key in keys:
        model = getattr(model, key) if hasattr(model, key) else model[key]
    return model


def merge(params: Mapping[str, Any], scale: float) -> dict:
    """The base model's parameters with the adapters' products added to them."""
    from t5x_lite import frozen

    leaves = int8_base.dequantised(frozen.flat(params))
    out = {path: x for path, x in leaves.items() if '/adapter/' not in path}
    for path, down in leaves.items():
        if path.endswith(DOWN):
            base = path.removesuffix(DOWN)
            out[f'{base}kernel'] = leaves[f'{base}kernel'] + scale * (down @ leaves[base + UP])
    return frozen.unflat(out)


def adapters(params: Mapping[str, Any]) -> dict[str, Any]:
    """{path: array} of the adapters alone."""
    from t5x_lite import frozen

    return {path: x for path, x in frozen.flat(params).items() if '/adapter/' in path}
