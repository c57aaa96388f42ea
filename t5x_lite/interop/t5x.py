"""T5X's checkpoints of T5, layers apart or scanned, as a model's weights."""
# SPDX-License-Identifier: Apache-2.0

# github.com/google-research/t5x: parameter names of t5x/examples/t5/network.py (layers apart) and
# of t5x/examples/scalable_t5/network.py (one array for all layers, which are its axis 1).

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorstore

from t5x_lite.errors import ConfigError
from t5x_lite.interop import architectures, transfer
from t5x_lite.interop.files import Tensor
from t5x_lite.interop.names import Weight
from t5x_lite.model.config import ModelConfig

FAMILIES = ('t5', 'mt5', 'umt5')
ITEMS = ('', 'state', 'default')  # where Orbax may have put the tree in a checkpoint's folder
TREES = ('target.', 'params.')  # the parameters' part of the tree, if it has others
HEADERS = ('.zarray', 'zarr.json')
# How stacks of scanned layers are called: encoder/encoder/mlp/..., encoder/layers/mlp/...
SCANNED = re.compile(r'^(encoder|decoder)/(?:encoder|decoder|layers)/(.+)$')
# The relative biases of scanned layers have had two names.
BIAS = 'relpos_bias/rel_embedding'
RENAMED = (('/relative_posemb/', '/relpos_bias/'),)


def open_checkpoint(folder: str | Path) -> dict[str, Tensor]:
    """The parameters of a checkpoint, not read, by names as `weights` has them.

    Slots of the optimizer and the step are left out.

    Raises:
      ConfigError: no such folder, or none of an array's files in it.
    """
    folder = Path(folder).absolute()
    for item in ITEMS:
        arrays = dict(_arrays(folder / item))
        if arrays:
            return dict(_as_tables_have(*item) for item in arrays.items())
    inside = sorted(path.name for path in folder.glob('checkpoint_*'))
    hint = f'; name one of {", ".join(inside[-5:])} in it' if inside else ''
    raise ConfigError(f'{folder}: has no arrays as Orbax or T5X write them{hint}')


def _arrays(folder: Path) -> Iterator[tuple[str, Tensor]]:
    where = {'driver': 'file', 'path': f'{folder}/'}
    if (folder / 'manifest.ocdbt').is_file():
        where = {'driver': 'ocdbt', 'base': where}
        keys = tensorstore.KvStore.open(where).result().list().result()
        files = [key.decode() for key in keys]
    else:
        found = [path for header in HEADERS for path in folder.glob(f'*/{header}')]
        files = [f'{path.parent.name}/{path.name}' for path in found]
    names = {}
    for file in files:
        name, _, header = file.rpartition('/')
        if header in HEADERS:
            names[name] = 'zarr' if header == '.zarray' else 'zarr3'
    tree = next((t for t in TREES if any(name.startswith(t) for name in names)), '')
    for name, driver in names.items():
        if name.startswith(tree):
            kvstore = {**where, 'path': f'{where.get("path", "")}{name}/'}
            yield name.removeprefix(tree).replace('.', '/'), _tensor(driver, kvstore)


def _tensor(driver: str, kvstore) -> Tensor:
    spec = {'driver': driver, 'kvstore': kvstore}
    try:
        array = tensorstore.open(spec, open=True, read=True).result()
    except ValueError as error:
        raise ConfigError(
            f'{kvstore["path"]}: is no whole array ({error}); copy it again'
        ) from error
    return Tensor(tuple(array.shape), lambda index: array[index].read().result())


def _as_tables_have(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Layers first in arrays of scanned layers, encoder/layers/..., and heads joined."""
    for old, new in RENAMED:
        name = name.replace(old, new)
    scanned = SCANNED.match(name)
    if scanned is not None and len(tensor.shape) >= 2:
        name = f'{scanned[1]}/layers/{scanned[2]}'
        rest = range(2, len(tensor.shape))
        # Relative biases [H, N, buckets] are transposed as a whole when they are read.
        tensor = _permuted(tensor, (0, 2, 1) if name.endswith(BIAS) else (1, 0, *rest))
    if name.endswith('/kernel') and len(tensor.shape) == (4 if scanned else 3):
        tensor = _joined(tensor, 'out' in name.split('/'))
    return name, tensor


def _permuted(tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
    inverse = np.argsort(axes)
    read = lambda index: np.transpose(tensor.read(tuple(index[i] for i in inverse)), axes)
    return Tensor(tuple(tensor.shape[i] for i in axes), read)


def _joined(tensor: Tensor, out: bool) -> Tensor:
    """Kernels of attention that keep heads apart, [..., D, H, K] or [..., H, K, D], as matrices."""
    *layers, a, b, c = tensor.shape
    shape = (*layers, a * b, c) if out else (*layers, a, b * c)
    whole = (slice(None),) * len(tensor.shape)
    return Tensor(shape, lambda index: np.reshape(tensor.read(whole), shape)[index])


def weights(model: ModelConfig, scanned: bool) -> Iterator[Weight]:
    """Our weights of a T5 by T5X's names, layers apart or scanned; its kernels lie as ours do."""
    yield Weight('token_embedding/embedding', 'token_embedder/embedding', vocab=True)
    if not model.tied and model.decoder_layers:
        name = 'decoder/logits_dense/kernel'
        yield Weight('output/embedding', name, transposed=True, vocab=True)
    for stack in model.stacks:
        yield from _stack(model, stack, f'{stack}/layers' if scanned else f'{stack}/layers_{{}}')


def _stack(model: ModelConfig, stack: str, theirs: str) -> Iterator[Weight]:
    ours = f'{stack}/blocks'
    attention = {'attention': 'attention' if stack == 'encoder' else 'self_attention'}
    norms = {'attention': f'pre_{attention["attention"]}_layer_norm', 'mlp': 'pre_mlp_layer_norm'}
    if stack == 'decoder' and model.encoder_layers:
        attention['cross'] = 'encoder_decoder_attention'
        norms['cross'] = 'pre_cross_attention_layer_norm'
    for part, name in attention.items():
        for kernel in ('query', 'key', 'value', 'out'):
            kernel = f'{kernel}/kernel'
            yield Weight(f'{ours}/{part}/{kernel}', f'{theirs}/{name}/{kernel}')
    for part, name in norms.items():
        yield Weight(f'{ours}/{part}_norm/scale', f'{theirs}/{name}/scale')
    wide = {'wide': 'wi_0', 'gate': 'wi_1'} if model.gated else {'wide': 'wi'}
    for part, name in (wide | {'out': 'wo'}).items():
        yield Weight(f'{ours}/mlp/{part}/kernel', f'{theirs}/mlp/{name}/kernel')
    each = model.positions.per_layer
    place = f'{ours if each else stack}/positions/relative_bias'
    yield Weight(place, f'{theirs if each else stack}/{BIAS}', transposed=True)
    yield Weight(f'{stack}/norm/scale', f'{stack}/{stack}_norm/scale')


def plan(folder: str | Path, model: ModelConfig, shapes) -> tuple[transfer.Plan, dict[str, Tensor]]:
    """What of a checkpoint goes where, and its arrays; heads stay as they are.

    Raises:
      ConfigError: a model that is no T5, an array that is missing or does not fit.
    """
    try:
        kind = architectures.family_of(model).model_type
    except ConfigError as error:
        raise ConfigError(f'{folder}: T5X has T5 only, but {error}') from error
    if kind not in FAMILIES:
        raise ConfigError(f'{folder}: T5X has T5 only, but the model is a {kind}')
    tensors = open_checkpoint(folder)
    scanned = any('/layers/' in name for name in tensors)
    try:
        return transfer.plan(weights(model, scanned), shapes, tensors, model.vocab), tensors
    except ConfigError as error:
        apart = [name for name in tensors if re.search(f'/layers(_0)?/{BIAS}$', name)]
        hint = ''
        if bool(apart) != model.positions.per_layer:
            hint = f'\n  its relative biases are {"one per layer" if apart else "shared"}: '
            hint += f'set model.positions to Relative(per_layer={bool(apart)})'
        raise ConfigError(f'{folder}: {error}{hint}') from error
