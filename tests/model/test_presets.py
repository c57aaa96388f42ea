"""Presets have exactly the parameters of the published models."""
# SPDX-License-Identifier: Apache-2.0

import jax
import pytest
from flax import nnx

from t5x_lite.model import presets
from t5x_lite.model.transformer import Model

# The checkpoints that Hugging Face hosts as gpt2, google/t5-v1_1-base and -large; and
# bert-base-uncased's 109,482,240 without its pooler (768 * 769) and two token types (2 * 768).
PUBLISHED = {
    'bert_base': 109_482_240 - 768 * 769 - 2 * 768,
    'gpt2_small': 124_439_808,
    't5_1_1_base': 247_577_856,
    't5_1_1_large': 783_150_080,
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_parameter_count_is_the_published_one(name):
    config = getattr(presets, name)()
    model = nnx.eval_shape(lambda: Model(config, nnx.Rngs(0)))
    assert sum(x.size for x in jax.tree.leaves(nnx.state(model))) == PUBLISHED[name]


def test_a_preset_takes_changes():
    assert presets.bert_base(dropout=0.0).dropout == 0.0
    assert presets.decoder_mini(embed=128).kv == 32
