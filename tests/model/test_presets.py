"""Presets have exactly the parameters of the published models."""
# SPDX-License-Identifier: Apache-2.0

import pytest

from t5x_lite.model import presets
from t5x_lite.model.count import Counts, count
from t5x_lite.model.heads import ClassifierHead, MaskedLMHead

# The checkpoints that Hugging Face hosts under these names, counted by transformers; encoders
# without heads and pooler (bert-base-uncased's 109,482,240 has a pooler of 768 * 769).
PUBLISHED = {
    'bert_tiny': 4_385_920 - 128 * 129,
    'bert_base': 109_482_240 - 768 * 769,
    'bert_large': 335_141_888 - 1024 * 1025,
    'roberta_base': 124_645_632 - 768 * 769,
    'roberta_large': 355_359_744 - 1024 * 1025,
    'electra_small': 13_483_008,
    'electra_base': 108_891_648,
    'electra_large': 334_092_288,
    'modernbert_base': 149_014_272,
    'modernbert_large': 394_781_696,
    'gpt2_small': 124_439_808,
    'gpt2_medium': 354_823_168,
    'gpt2_large': 774_030_080,
    'gpt2_xl': 1_557_611_200,
    't5_small': 60_506_624,
    't5_base': 222_903_552,
    't5_large': 737_668_096,
    't5_3b': 2_851_598_336,
    't5_11b': 11_307_321_344,
    't5_1_1_small': 76_961_152,
    't5_1_1_base': 247_577_856,
    't5_1_1_large': 783_150_080,
    't5_1_1_xl': 2_849_757_184,
    't5_1_1_xxl': 11_135_332_352,
    'mt5_small': 300_176_768,
    'mt5_xxl': 12_921_057_280,
    'umt5_small': 306_601_984,
    'byt5_small': 299_637_760,
    'byt5_xxl': 12_906_899_328,
    'bart_base': 139_420_416,
    'bart_large': 406_291_456,
    'llama_7b': 6_738_415_616,
    'llama3_8b': 8_030_261_248,
    'qwen3_0_6b': 596_049_920,
}
# Sizes as the papers round them: GPT-3 (table 2.1), Turing-NLG.
ROUNDED = {
    'gpt3_small': 125e6,
    'gpt3_medium': 350e6,
    'gpt3_large': 760e6,
    'gpt3_2_7b': 2.7e9,
    'gpt3_6_7b': 6.7e9,
    'gpt3_13b': 13e9,
    'gpt3_175b': 175e9,
    'turing_nlg_17b': 17e9,
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_parameter_count_is_the_published_one(name):
    assert count(getattr(presets, name)()).total == PUBLISHED[name]


@pytest.mark.parametrize('name', ROUNDED)
def test_parameter_count_is_near_the_rounded_one(name):
    assert count(getattr(presets, name)()).total == pytest.approx(ROUNDED[name], rel=0.02)


def test_heads_count_and_padding_is_told_apart():
    heads = {'mlm': MaskedLMHead(), 'nsp': ClassifierHead(labels=2)}
    assert count(presets.bert_base(), heads).total == 110_106_428
    assert count(presets.modernbert_base(), {'mlm': MaskedLMHead(bias=False)}).total == 149_655_232
    plain = count(presets.gpt2_small())
    padded = count(presets.gpt2_small(vocab_multiple=128))
    assert padded == Counts(plain.total, 47 * 768, 50_257 * 768)
    untied = count(presets.t5_1_1_small(vocab=32_100, vocab_multiple=128))
    assert untied.padding == 2 * 28 * 512 and untied.tables == 2 * 32_100 * 512


def test_a_preset_takes_changes():
    assert presets.bert_base(dropout=0.0).dropout == 0.0
    assert presets.decoder_mini(embed=128).kv == 32


@pytest.mark.parametrize('name', presets.__all__)
def test_a_preset_takes_other_sizes(name):
    sizes = dict(embed=32, heads=8, mlp=48, head_size=16)
    config = getattr(presets, name)(**sizes)
    assert {field: getattr(config, field) for field in sizes} == sizes
