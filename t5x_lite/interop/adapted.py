"""Adapters of a run: merged into the base's weights, or files of their own in peft's layout."""
# SPDX-License-Identifier: Apache-2.0

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from t5x_lite import selector
from t5x_lite.errors import ConfigError
from t5x_lite.interop import architectures, exchange, files
from t5x_lite.tuning.adapter_files import CONFIG, PREFIX, WEIGHTS
from t5x_lite.tuning.lora import DOWN, UP, Lora


def merge_run(run: Path, target: Path, *, step: int | None = None) -> str:
    """Makes a run's folder, with a checkpoint of step 0, of the base with the adapters merged.

    Raises:
      ConfigError: no run, one without adapters, a folder that is not empty.
    """
    from t5x_lite import checkpoint, printing

    own = _adapted(run)
    found, params = exchange.read_run(run, own, step)
    with exchange.written_whole(target) as new:
        checkpoint.write_params(new / 'checkpoints', own.adapt.merged(params))
        plain = exchange.Architecture(model=own.model, heads=own.heads, parts=own.parts)
        text = printing.source(plain, 'architecture')
        (new / exchange.IMPORTED).write_text(text, encoding='utf-8')
    return f'step {found} of {run}, adapters merged: {target.resolve()}'


def export_adapter(
    run: Path, target: Path, *, step: int | None = None, own_names: bool = False
) -> str:
    """Writes a run's adapters alone: the files that peft loads onto the base model.

    With `own_names` the tensors are our arrays by our paths: for models that transformers has not.

    Raises:
      ConfigError: no run, one without LoRA, a model of no known family, a layer that the family's
        files hold together with others (GPT-2's queries, keys and values).
    """
    own = _adapted(run)
    named = None if own_names else _peft_names(own)
    found, params = exchange.read_run(run, own, step)
    leaves = flatten_dict(params, sep='/')
    if named is None:
        fields = {'r': own.adapt.rank, 'lora_alpha': own.adapt.alpha}
        tensors = {p: np.asarray(x) for p, x in leaves.items() if p.endswith((DOWN, UP))}
    else:
        fields, tensors = _in_peft(own.adapt, named, leaves)
    with exchange.written_whole(target) as new:
        _save(new / WEIGHTS, tensors)
        (new / CONFIG).write_text(json.dumps(fields, indent=2) + '\n', encoding='utf-8')
    size = sum(x.size for x in tensors.values())
    return f'step {found} of {run}, {size:,} parameters of adapters: {target.resolve()}'


def _peft_names(own):
    """(family, {our path: its weight}) by the names that the run's architecture saves."""
    heads = {name: head for name, head in own.heads.items() if name not in own.parts}
    try:
        family = architectures.family_of(own.model, heads)
    except ConfigError as error:
        raise ConfigError(f'{error}; keep the names of t5x_lite: --own-names') from error
    weights = architectures.chosen_weights(family, own.model, heads)
    return family.model_type, {weight.path: weight for weight in weights}


def _in_peft(adapt: Lora, named, leaves) -> tuple[dict, dict]:
    """adapter_config.json, and the tensors by peft's names."""
    family, weights = named
    tensors, modules, plain = {}, [], set()
    for path in (path for path in leaves if path.endswith(DOWN)):
        base = path.removesuffix(DOWN)
        weight = _whole(weights.get(f'{base}kernel'), base, family)
        plain.add(not weight.transposed)
        for row, name in _layers(adapt, weight, leaves[path].shape):
            pair = leaves[base + DOWN], leaves[base + UP]
            down, up = (np.asarray(x if row is None else x[row]) for x in pair)
            modules.append(name.removesuffix('.weight'))
            tensors[f'{PREFIX}{modules[-1]}.lora_A.weight'] = np.ascontiguousarray(down.T)
            tensors[f'{PREFIX}{modules[-1]}.lora_B.weight'] = np.ascontiguousarray(up.T)
    if len(plain) > 1:
        raise ConfigError(
            f'ckpt adapter: {family} keeps some of these layers transposed and others not, which '
            'one adapter_config.json cannot say; merge them (ckpt merge), or --own-names'
        )
    return _fields(adapt, modules, fan_in_fan_out=True in plain), tensors


def _adapted(run: Path):
    own = exchange.architecture_of(run)
    if not isinstance(own.adapt, Lora):
        raise ConfigError(f'{run}: has no LoRA adapters (adapt={own.adapt!r}); see ckpt export')
    return own


def _whole(weight, base: str, family: str):
    """The weight of a layer that has a tensor of its own."""
    if weight is None:
        raise ConfigError(f'ckpt adapter: {family} has no name for {base[:-1]}; --own-names')
    if weight.part[1] > 1:
        raise ConfigError(
            f'ckpt adapter: {family} keeps {base[:-1]} in one matrix with others, {weight.name}, '
            'which peft adapts as a whole; merge it (ckpt merge), or --own-names'
        )
    return weight


def _layers(adapt: Lora, weight, shape) -> Iterator[tuple[int | None, str]]:
    """(row of the stack or None, name in the files) of the layers that the pattern chooses."""
    paths = selector.layers(weight.path, shape)
    for row, path in enumerate(paths):
        if re.search(adapt.pattern, path):
            yield (row, weight.name.format(row)) if '{}' in weight.name else (None, weight.name)


def _fields(adapt: Lora, modules: list[str], *, fan_in_fan_out: bool) -> dict[str, Any]:
    return {
        'peft_type': 'LORA',
        'task_type': None,
        'base_model_name_or_path': None,
        'r': adapt.rank,
        'lora_alpha': adapt.alpha,
        'lora_dropout': adapt.dropout,
        'bias': 'none',
        'fan_in_fan_out': fan_in_fan_out,
        'inference_mode': True,
        'modules_to_save': None,
        'target_modules': modules,
    }


def _save(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
    files.safetensors_library()
    from safetensors.numpy import save_file

    save_file(dict(tensors), file, metadata={'format': 'pt'})
