"""Files as they are found: other names, shards, half precision, wider vocabularies."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import reference
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from reference import torch, transformers
from safetensors.numpy import load_file, save_file

from t5x_lite.interop import architectures, files, hugging_face, transfer
from t5x_lite.model import transformer
from t5x_lite.warm_start import from_hf

MODELS = {
    'bert': lambda: transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=99,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=16,
        )
    ),
    'gpt2': lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=99,
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_positions=16,
            bos_token_id=1,
            eos_token_id=1,
        )
    ),
}
TABLE = {'bert': 'bert.embeddings.word_embeddings.weight', 'gpt2': 'transformer.wte.weight'}
COPY = {'bert': 'cls.predictions.decoder.weight', 'gpt2': 'lm_head.weight'}
PREFIX = {'bert': 'bert.', 'gpt2': 'transformer.'}
BUFFERS = {
    'bert': {'bert.embeddings.position_ids': np.arange(16)[None]},
    'gpt2': {
        'transformer.h.0.attn.bias': np.tril(np.ones((1, 1, 16, 16), bool)),
        'transformer.h.1.attn.masked_bias': np.array(-1e4, np.float32),
    },
}


@pytest.fixture(scope='module', params=MODELS)
def saved(request, tmp_path_factory):
    """(model type, folder, their model, ours of the folder)."""
    folder = tmp_path_factory.mktemp(request.param)
    theirs = reference.save(MODELS[request.param](), folder)
    return request.param, folder, theirs, reference.load(folder)


def rewritten(source, target, change, **fields):
    """A folder's tensors, changed, and its config with other fields, in a new folder."""
    target.mkdir()
    save_file(change(load_file(source / 'model.safetensors')), target / 'model.safetensors')
    config = json.loads((source / 'config.json').read_text()) | fields
    (target / 'config.json').write_text(json.dumps(config))
    return target


def assert_same(folder, ours, change=lambda x: x):
    arrays = reference.load(folder).arrays
    assert arrays.keys() == ours.arrays.keys()
    for path, array in arrays.items():
        np.testing.assert_array_equal(array, change(np.asarray(ours.arrays[path])), err_msg=path)


def test_the_prefix_may_be_absent(saved, tmp_path):
    kind, folder, _, ours = saved
    change = lambda tensors: {k.removeprefix(PREFIX[kind]): v for k, v in tensors.items()}
    assert_same(rewritten(folder, tmp_path / 'new', change), ours)


def test_gamma_and_beta_are_scale_and_bias(saved, tmp_path):
    _, folder, _, ours = saved

    def change(tensors):
        old = lambda name: re.sub('LayerNorm.weight$', 'LayerNorm.gamma', name)
        return {old(re.sub('LayerNorm.bias$', 'LayerNorm.beta', k)): v for k, v in tensors.items()}

    assert_same(rewritten(folder, tmp_path / 'new', change), ours)


def test_a_tied_table_may_be_there_twice_or_by_its_other_name(saved, tmp_path):
    kind, folder, _, ours = saved
    table, copy = TABLE[kind], COPY[kind]
    twice = lambda tensors: tensors | {copy: tensors[table]}
    other = lambda tensors: {copy if k == table else k: v for k, v in tensors.items()}
    assert_same(rewritten(folder, tmp_path / 'twice', twice), ours)
    assert_same(rewritten(folder, tmp_path / 'other', other), ours)


def test_buffers_are_no_weights(saved, tmp_path):
    kind, folder, _, ours = saved
    assert_same(rewritten(folder, tmp_path / 'new', lambda t: t | BUFFERS[kind]), ours)


def test_shards_are_read_by_their_index(saved, tmp_path):
    _, _, theirs, ours = saved
    theirs.save_pretrained(tmp_path, max_shard_size='8KB')
    assert len(list(tmp_path.glob('model-*-of-*.safetensors'))) > 2
    assert_same(tmp_path, ours)


def test_what_we_write_in_shards_is_read_by_both(saved, tmp_path):
    _, _, theirs, ours = saved
    config = ours.source.family.to_model(ours.source.fields)
    weights = architectures.chosen_weights(ours.source.family, config, ours.heads)
    tensors = transfer.outgoing(weights, ours.arrays, config.vocab)
    files.write_folder(tmp_path, tensors.shapes, tensors.read, shard=8000)
    theirs.config.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob('model-*-of-*.safetensors'))) > 2
    assert_same(tmp_path, ours)
    back, told = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values())
    expected = theirs.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in back.state_dict().items())


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_half_precision_is_read_and_written(saved, tmp_path, dtype):
    kind, _, theirs, ours = saved
    half = MODELS[kind]()
    half.load_state_dict(theirs.state_dict())
    half.to(getattr(torch, dtype)).save_pretrained(tmp_path / 'theirs')
    kept = ml_dtypes.bfloat16 if dtype == 'bfloat16' else np.float16
    rounded = lambda x: x.astype(kept).astype(np.float32)
    assert_same(tmp_path / 'theirs', ours, rounded)
    (tmp_path / 'ours').mkdir()
    config = ours.source.family.to_model(ours.source.fields)
    hugging_face.write_folder(tmp_path / 'ours', config, ours.heads, ours.arrays, dtype=dtype)
    back, told = type(theirs).from_pretrained(tmp_path / 'ours', output_loading_info=True)
    assert not any(told.values())
    assert back.dtype == getattr(torch, dtype)
    expected = half.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in back.state_dict().items())


def loss(model, ids):
    """Of every token from the hidden state of the same: over the whole vocabulary."""
    if 'mlm' in model.heads:
        logits = model.heads['mlm'](model.encode(ids), model)
    else:
        logits = model.logits(model.decode(ids)[0])
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], -1).mean()


def started(folder, config, heads):
    """A fresh model, then `from_hf`, as a run starts."""
    graph, state = nnx.split(transformer.build(config, heads))
    arrays = flatten_dict(nnx.to_pure_dict(state), sep='/')
    shapes = {path: x.shape for path, x in arrays.items()}
    arrays = from_hf(str(folder)).open(config, heads, shapes).load(arrays)
    return nnx.merge(graph, unflatten_dict(arrays, sep='/'))


@pytest.mark.parametrize('named', [99, 104])
def test_rows_that_pad_a_vocabulary_change_no_loss(saved, tmp_path, named):
    """Padding in the file, known to its config or not, and padding of our own."""
    kind, folder, _, ours = saved
    config = ours.source.family.to_model(ours.source.fields)
    ids, _ = reference.tokens(99)
    expected = loss(ours.model(ours.arrays), ids)

    def padded(tensors):
        grown = (TABLE[kind], 'cls.predictions.bias')
        add = lambda x: np.concatenate([x, np.full((5, *x.shape[1:]), 9.0, x.dtype)])
        return {name: add(x) if name in grown else x for name, x in tensors.items()}

    wide = rewritten(folder, tmp_path / 'wide', padded, vocab_size=named)
    np.testing.assert_array_equal(loss(started(wide, config, ours.heads), ids), expected)
    roomy = dataclasses.replace(config, vocab_multiple=64)
    for source in (folder, wide):
        found = loss(started(source, roomy, ours.heads), ids)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
