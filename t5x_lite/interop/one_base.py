"""Several LoRA adapters on one base: its weights are held once, adapters are put on by choice."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from t5x_lite import checkpoint, frozen, selector
from t5x_lite.errors import ConfigError
from t5x_lite.interop import architectures, exchange
from t5x_lite.model.config import ModelConfig
from t5x_lite.run import IMPORTED
from t5x_lite.tuning.adapter_files import from_adapter
from t5x_lite.tuning.lora import Lora
from t5x_lite.warm_start import Opened


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What tuning added to a base: arrays by path, and the heads that belong to it."""

    lora: Lora
    heads: Mapping[str, Any]
    arrays: Mapping[str, jax.Array]


@dataclass(frozen=True, kw_only=True)
class Base:
    """A model's weights by path, on one device, without adapters."""

    model: ModelConfig
    heads: Mapping[str, Any]
    arrays: Mapping[str, jax.Array]

    def with_adapter(self, adapter: Adapter):
        """The Model with that adapter. It shares the base's arrays; nothing is copied.

        Models of adapters with equal `Lora` and heads are the same to `jax.jit`: a function of
        (model, tokens) is compiled once for all of them.
        """
        own = exchange.Architecture(model=self.model, heads=adapter.heads, adapt=adapter.lora)
        graph, shapes = exchange.abstract(own, _here())
        held = {**self.arrays, **adapter.arrays}
        missing = [path for path in shapes if path not in held]
        if missing:
            raise ConfigError(f'neither base nor adapter has {", ".join(missing[:8])}')
        return nnx.merge(graph, frozen.unflat({path: held[path] for path in shapes}))


def open_base(source: str | Path, step: int | None = None) -> Base:
    """The base in a run's folder, or in one of Hugging Face files.

    Of a run with adapters, what its adapters were trained on.
    """
    source = Path(source)
    if not any((source / name).is_file() for name in (IMPORTED, 'experiment.py')):
        model, heads = exchange.load_model(source), exchange.architecture_of_files(source).heads
        arrays = frozen.flat(nnx.to_pure_dict(nnx.state(model)))
        return Base(model=model.config, heads=heads, arrays=arrays)
    own = exchange.architecture_of(source)
    _, params = exchange.read_run(source, own, step, where=_here())
    arrays = {p: x for p, x in frozen.flat(params).items() if '/adapter/' not in p}
    return Base(model=own.model, heads=own.heads, arrays=arrays)


def of_run(base: Base, run: str | Path, step: int | None = None) -> Adapter:
    """The adapter of a run that was trained on this base: only what learned is read, heads too.

    Raises:
      ConfigError: a run without LoRA, or one that was trained on another base.
    """
    run = Path(run)
    own = exchange.architecture_of(run)
    if not isinstance(own.adapt, Lora):
        raise ConfigError(f'{run}: has no LoRA adapters (adapt={own.adapt!r})')
    wrong = architectures.differences(base.model, own.model)
    if wrong:
        raise ConfigError(f'{run}: its base has another {", ".join(wrong)}; open the base it had')
    step, shapes = checkpoint.saved_shapes(run / 'checkpoints', step)
    learned = _learned(run, own, shapes)
    probe = [path for path in _adapted_kernels(shapes) if path not in learned][:1]
    like = {p: jax.ShapeDtypeStruct(shapes[p], np.float32, sharding=_here()) for p in learned}
    like |= {p: base.arrays[p] for p in probe}
    arrays = checkpoint.read_arrays(run / 'checkpoints', step, like)
    for path in probe:
        if (np.asarray(arrays.pop(path)) != np.asarray(base.arrays[path])).any():
            raise ConfigError(
                f'{run}: was trained on another base, {path} differs; open the base it had: '
                f'open_base({str(run)!r})'
            )
    heads = {name: head for name, head in own.heads.items() if name not in own.parts}
    return Adapter(lora=own.adapt, heads=heads, arrays=arrays)


def of_files(base: Base, folder: str | Path, lora: Lora) -> Adapter:
    """The adapter of a folder in peft's layout, or with names of our own, for this base's heads.

    Raises:
      ConfigError: another rank, alpha / rank or other layers than `lora` says.
    """
    init = from_adapter(str(folder), base=_Nothing())
    lora.check_init(init)
    own = exchange.Architecture(model=base.model, heads=base.heads, adapt=lora)
    _, shapes = exchange.abstract(own, _here())
    like = {path: x for path, x in shapes.items() if '/adapter/' in path}
    opened = init.open(base.model, base.heads, {path: x.shape for path, x in like.items()})
    return Adapter(lora=lora, heads=base.heads, arrays=opened.load(like))


class _Nothing:
    """The base of adapter files whose base is here already."""

    def open(self, model, heads, shapes) -> Opened:
        return Opened('', [], lambda like: {})


def _here():
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])


def _adapted_kernels(shapes) -> list[str]:
    suffix = 'adapter/down'
    return [p.removesuffix(suffix) + 'kernel' for p in sorted(shapes) if p.endswith(suffix)]


def _learned(run: Path, own, shapes) -> set[str]:
    """Paths of the adapters, the heads, and whatever of the base learned with them."""
    parts = tuple(f'heads/{name}/' for name in own.parts)
    added = {p for p in shapes if '/adapter/' in p or p.startswith('heads/')}
    if (run / 'experiment.py').is_file():
        from t5x_lite import config, step

        experiment = config.load(run / 'experiment.py').experiment
        starts = frozen.starts(experiment, step.abstract_params(experiment))
        learns = lambda value: any(map(frozen.learns, selector.each(value, 1)))
        added |= {path for path, value in starts.items() if learns(value)}
    return {path for path in added if not path.startswith(parts)} if parts else added
