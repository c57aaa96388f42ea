"""Adapters from files in peft's layout, on top of a base: a value for `Experiment.init`."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from t5x_lite.errors import ConfigError

# peft (huggingface/peft) keeps A as [rank, in] and B as [out, rank], under the names that the
# wrapped model's modules have in transformers.
PREFIX = 'base_model.model.'
CONFIG, WEIGHTS = 'adapter_config.json', 'adapter_model.safetensors'

# What reads files is imported where they are read: reading a config stays fast.


@dataclass(frozen=True, kw_only=True)
class AdapterFiles:
    """Weights of a base and, on top, the adapters of a folder in peft's layout."""

    path: str
    base: Any

    def open(self, model, heads, shapes):
        from t5x_lite.warm_start import Opened

        own = {p: s for p, s in shapes.items() if '/adapter/' in p}
        rest = {p: s for p, s in shapes.items() if p not in own}
        base = self.base.open(model, heads, rest)
        found = self._found(model, own)

        def load(like):
            out = base.load({p: x for p, x in like.items() if p in rest})
            return out | {p: _placed(read(), like[p]) for p, read in found.items()}

        told = f'{base.told}\n{self.path}: loaded {len(found)} arrays of adapters'
        return Opened(told, base.fresh, load, base.keep, base.parts)

    @property
    def scale(self) -> float:
        """alpha / rank of the files."""
        from t5x_lite.interop import files

        fields = files.read_json(Path(self.path) / CONFIG)
        return fields['lora_alpha'] / fields['r']

    def _found(self, model, shapes) -> dict[str, Any]:
        """{our path: what reads the array}; ConfigError for a tensor that is missing or misfits."""
        from t5x_lite.interop import files

        tensors, out = files.read_file(Path(self.path) / WEIGHTS), {}
        own = not any(name.startswith(PREFIX) for name in tensors)
        names = {path: [path] for path in shapes} if own else self._peft(model, shapes)
        short = tensors if own else _unprefixed(tensors, model)
        for path, shape in shapes.items():
            wanted = tuple(shape) if own else tuple(shape[-2:])[::-1]
            self._check(names[path], short, wanted)
            out[path] = lambda path=path, own=own: _read(short, names[path], own, shapes[path])
        return out

    def _peft(self, model, shapes: Mapping) -> dict[str, list[str]]:
        """{our path: names of its layers' tensors}, without prefixes."""
        from t5x_lite.interop import architectures

        weights = architectures.family_of(model).weights(model)
        names = {w.path: w.name.removesuffix('.weight') for w in weights}
        out = {}
        for path, shape in shapes.items():
            base, part = path.split('/adapter/')
            end = {'down': 'lora_A', 'up': 'lora_B'}[part]
            name = names.get(f'{base}/kernel', base) + f'.{end}.weight'
            out[path] = [name.format(i) for i in range(shape[0])] if '{}' in name else [name]
        return out

    def _check(self, names, tensors, wanted: tuple) -> None:
        for name in names:
            found = tuple(tensors[name].shape) if name in tensors else None
            if found != wanted:
                has = 'no such tensor' if found is None else list(found)
                raise ConfigError(
                    f'{self.path}: {name} must be {list(wanted)} for this Lora, the file has '
                    f'{has}; give it the rank and the pattern of {CONFIG}'
                )


def _unprefixed(tensors: Mapping[str, Any], model) -> dict[str, Any]:
    from t5x_lite.interop import architectures

    prefix = architectures.family_of(model).prefix
    return {n.removeprefix(PREFIX).removeprefix(prefix): x for n, x in tensors.items()}


def _read(tensors, names: list[str], own: bool, shape) -> np.ndarray:
    """Our array: as it lies, or of each layer's transposed."""
    arrays = [np.asarray(tensors[name].read(()), np.float32) for name in names]
    return arrays[0] if own else np.stack([x.T for x in arrays]).reshape(shape)


def _placed(array: np.ndarray, like):
    import jax

    return jax.device_put(array, like.sharding)


def from_adapter(path: str, *, base) -> AdapterFiles:
    """`base` (from_hf(...), from_checkpoint(...)) with the adapters of a folder on top.

    Several adapters of one base are several experiments that differ in `path`. The experiment's
    `Lora` must have the rank, alpha and layers that the folder has.
    """
    return AdapterFiles(path=path, base=base)
