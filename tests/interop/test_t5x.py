"""T5X's checkpoints: every array of both layouts arrives where it belongs."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from t5x_lite import checkpoint
from t5x_lite.errors import ConfigError
from t5x_lite.interop import exchange
from t5x_lite.model import presets, transformer
from t5x_lite.warm_start import from_t5x

SIZES = dict(vocab=50, embed=16, heads=4, head_size=6, mlp=24, encoder_layers=3, decoder_layers=2)


def sized(model):
    return dataclasses.replace(model, **SIZES)


MODELS = {
    't5 1.0': sized(presets.t5_small()),
    't5 1.1': sized(presets.t5_1_1_small()),
    'umt5': sized(presets.umt5_small()),
}
LAYERS = {'encoder': 3, 'decoder': 2}


def layer(stack: str, gated: bool) -> dict:
    """The shapes of a layer: names and shapes of t5x/examples/t5/network.py and layers.py."""
    attentions = {'encoder': ['attention'], 'decoder': ['self', 'cross']}[stack]
    names = {
        'attention': 'attention',
        'self': 'self_attention',
        'cross': 'encoder_decoder_attention',
    }
    norms = {'attention': 'attention', 'self': 'self_attention', 'cross': 'cross_attention'}
    shapes = {}
    for kind in attentions:
        for part in ('query', 'key', 'value'):
            shapes[f'{names[kind]}/{part}/kernel'] = (16, 24)
        shapes[f'{names[kind]}/out/kernel'] = (24, 16)
        shapes[f'pre_{norms[kind]}_layer_norm/scale'] = (16,)
    for name in ('wi_0', 'wi_1') if gated else ('wi',):
        shapes[f'mlp/{name}/kernel'] = (16, 24)
    return shapes | {'mlp/wo/kernel': (24, 16), 'pre_mlp_layer_norm/scale': (16,)}


def params(kind: str, scanned: bool, heads_apart: bool = False) -> dict[str, np.ndarray]:
    """T5X's parameters, random, by path."""
    gated, each = kind != 't5 1.0', kind == 'umt5'
    shapes = {'token_embedder/embedding': (50, 16)}
    if gated:
        shapes['decoder/logits_dense/kernel'] = (16, 50)
    for stack, count in LAYERS.items():
        shapes[f'{stack}/{stack}_norm/scale'] = (16,)
        own = layer(stack, gated) | ({'relpos_bias/rel_embedding': (4, 32)} if each else {})
        if not each:
            shapes[f'{stack}/relpos_bias/rel_embedding'] = (4, 32)
        for name, shape in own.items():
            if heads_apart and 'attention/' in name and name.endswith('kernel'):
                shape = (4, 6, 16) if '/out/' in name else (16, 4, 6)
            if scanned:
                shapes[f'{stack}/{stack}/{name}'] = (shape[0], count, *shape[1:])
            else:
                shapes |= {f'{stack}/layers_{i}/{name}': shape for i in range(count)}
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=s).astype(np.float32) for name, s in sorted(shapes.items())}


def write(folder, flat: dict, ocdbt: bool = True, bare: bool = False) -> str:
    """A checkpoint as T5X has it: parameters, the step, Adafactor's slots."""
    tree = unflatten_dict(flat, sep='/')
    slots = {name: {'v_row': x[0], 'm': np.zeros_like(x)} for name, x in flat.items()}
    state = {'step': np.int32(7), 'param_states': unflatten_dict(slots, sep='/')}
    tree = tree if bare else {'target': tree, 'state': state}
    path = folder / 'checkpoint_7'
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt)
    with ocp.Checkpointer(handler) as saver:
        saver.save(path, args=ocp.args.PyTreeSave(tree))
    return str(path)


def load(path: str, model, **options) -> dict[str, np.ndarray]:
    abstract = jax.eval_shape(lambda: transformer.build(model))
    like = flatten_dict(nnx.to_pure_dict(nnx.state(abstract)), sep='/')
    shapes = {name: x.shape for name, x in like.items()}
    opened = from_t5x(path, **options).open(model, {}, shapes)
    return opened.load(like)


def expected(flat: dict, scanned: bool, kind: str) -> dict[str, np.ndarray]:
    """Our arrays, put together by hand."""
    out = {'token_embedding/embedding': flat['token_embedder/embedding']}
    if kind != 't5 1.0':
        out['output/embedding'] = flat['decoder/logits_dense/kernel'].T
    for stack, count in LAYERS.items():
        take = lambda name, stack=stack, count=count: (
            np.moveaxis(flat[f'{stack}/{stack}/{name}'], 1, 0)
            if scanned
            else np.stack([flat[f'{stack}/layers_{i}/{name}'] for i in range(count)])
        )
        pairs = (
            {'attention': 'attention'} if stack == 'encoder' else {'attention': 'self_attention'}
        )
        pairs |= {} if stack == 'encoder' else {'cross': 'encoder_decoder_attention'}
        for ours, theirs in pairs.items():
            for part in ('query', 'key', 'value', 'out'):
                found = take(f'{theirs}/{part}/kernel')
                wanted = (count, 24, 16) if part == 'out' else (count, 16, 24)
                out[f'{stack}/blocks/{ours}/{part}/kernel'] = found.reshape(wanted)
            short = theirs.replace('encoder_decoder', 'cross')
            out[f'{stack}/blocks/{ours}_norm/scale'] = take(f'pre_{short}_layer_norm/scale')
        out[f'{stack}/blocks/mlp_norm/scale'] = take('pre_mlp_layer_norm/scale')
        out[f'{stack}/blocks/mlp/out/kernel'] = take('mlp/wo/kernel')
        gated = kind != 't5 1.0'
        for ours, theirs in {'wide': 'wi_0', 'gate': 'wi_1'}.items() if gated else [('wide', 'wi')]:
            out[f'{stack}/blocks/mlp/{ours}/kernel'] = take(f'mlp/{theirs}/kernel')
        out[f'{stack}/norm/scale'] = flat[f'{stack}/{stack}_norm/scale']
        if kind == 'umt5':
            bias = take('relpos_bias/rel_embedding').swapaxes(1, 2)
            out[f'{stack}/blocks/positions/relative_bias'] = bias
        else:
            out[f'{stack}/positions/relative_bias'] = flat[f'{stack}/relpos_bias/rel_embedding'].T
    return out


def equal(found: dict, wanted: dict) -> None:
    assert found.keys() == wanted.keys()
    for path, array in wanted.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)


@pytest.mark.parametrize('scanned', [False, True])
@pytest.mark.parametrize('kind', MODELS)
def test_every_array_arrives(kind, scanned, tmp_path):
    flat = params(kind, scanned)
    path = write(tmp_path, flat, ocdbt=kind != 't5 1.0', bare=kind == 't5 1.1' and scanned)
    equal(load(path, MODELS[kind]), expected(flat, scanned, kind))


def test_heads_kept_apart_are_joined(tmp_path):
    flat = params('umt5', scanned=True, heads_apart=True)
    equal(load(write(tmp_path, flat), MODELS['umt5']), expected(flat, True, 'umt5'))


def test_placed_arrays_read_their_parts_alone(tmp_path):
    flat, model = params('t5 1.1', scanned=True), MODELS['t5 1.1']
    abstract = jax.eval_shape(lambda: transformer.build(model))
    like = flatten_dict(nnx.to_pure_dict(nnx.state(abstract)), sep='/')
    mesh = jax.make_mesh((2,), ('x',))
    split = lambda x: jax.sharding.NamedSharding(
        mesh, jax.P(*(None,) * (x.ndim - 1), 'x' if x.shape[-1] % 2 == 0 else None)
    )
    like = {
        path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split(x)) for path, x in like.items()
    }
    shapes = {path: x.shape for path, x in like.items()}
    found = from_t5x(write(tmp_path, flat)).open(model, {}, shapes).load(like)
    assert len(found['encoder/blocks/mlp/wide/kernel'].sharding.device_set) == 2
    equal(found, expected(flat, True, 't5 1.1'))


def test_padding_rows_of_the_vocabulary_are_left_out(tmp_path):
    flat = params('t5 1.1', scanned=False)
    model = dataclasses.replace(MODELS['t5 1.1'], vocab=45, vocab_multiple=8)
    found, wanted = load(write(tmp_path, flat), model), expected(flat, False, 't5 1.1')
    for path in ('token_embedding/embedding', 'output/embedding'):
        np.testing.assert_array_equal(found[path], wanted[path][:48])


def bent(change):
    flat = params('t5 1.1', scanned=False)
    change(flat)
    return flat


@pytest.mark.parametrize(
    'change, model, words',
    [
        (
            lambda x: x.pop('decoder/layers_1/mlp/wi_1/kernel'),
            {},
            '1 tensors .*decoder/layers_1/mlp/wi_1/kernel is missing',
        ),
        (lambda x: None, dict(mlp=32), r'is \[16, 24\] in the file'),
        (lambda x: None, dict(encoder_layers=2), '9 arrays have no place'),
        (
            lambda x: None,
            dict(positions=MODELS['umt5'].positions),
            r'biases are shared: set model.positions to Relative\(per_layer=False\)',
        ),
        (lambda x: None, dict(bias=True), 'T5X has T5 only'),
    ],
)
def test_what_does_not_fit_is_one_clear_message(change, model, words, tmp_path):
    path = write(tmp_path, bent(change))
    with pytest.raises(ConfigError, match=f'(?s){words}'):
        load(path, dataclasses.replace(MODELS['t5 1.1'], **model))


def test_a_scanned_checkpoint_of_another_depth_or_kind(tmp_path):
    path, model = write(tmp_path, params('umt5', scanned=True)), MODELS['umt5']
    with pytest.raises(ConfigError, match=r'encoder/layers/mlp/wo/kernel is \[3, 24, 16\]'):
        load(path, dataclasses.replace(model, encoder_layers=2))
    with pytest.raises(ConfigError, match=r'are one per layer: set .*per_layer=True'):
        load(path, MODELS['t5 1.1'])


def test_a_damaged_array_is_one_clear_message(tmp_path):
    path = write(tmp_path, params('t5 1.1', scanned=False), ocdbt=False)
    (tmp_path / 'checkpoint_7' / 'target.token_embedder.embedding' / '.zarray').write_text('{')
    with pytest.raises(ConfigError, match='is no whole array'):
        load(path, MODELS['t5 1.1'])


def test_a_folder_of_checkpoints_or_of_none(tmp_path):
    write(tmp_path, params('t5 1.1', False))
    with pytest.raises(ConfigError, match='name one of checkpoint_7'):
        load(str(tmp_path), MODELS['t5 1.1'])
    with pytest.raises(ConfigError, match='has no arrays'):
        load(str(tmp_path / 'none'), MODELS['t5 1.1'])


def test_a_run_is_made_of_a_checkpoint(tmp_path):
    flat, model = params('t5 1.1', scanned=False), MODELS['t5 1.1']
    path = write(tmp_path, flat)
    told = exchange.import_t5x(tmp_path / 'checkpoint_7', model, tmp_path / 'run')
    assert 'loaded' in told and path in told
    assert exchange.architecture_of(tmp_path / 'run').model == model
    wanted = expected(flat, False, 't5 1.1')
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {
        path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here) for path, x in wanted.items()
    }
    equal(checkpoint.read_arrays(tmp_path / 'run' / 'checkpoints', 0, like), wanted)
