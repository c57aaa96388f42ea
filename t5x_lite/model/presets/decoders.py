"""Decoders as published: GPT-2, sizes of GPT-3 and Turing-NLG, Llama, Qwen 3."""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.model.activations import gelu_tanh, silu
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.inits import Normal
from t5x_lite.model.norms import LayerNorm, RMSNorm
from t5x_lite.model.positions import Learned, Rope

LLAMA3 = dict(vocab=128_256, kv_heads=8, positions=Rope(base=500_000.0), norm=RMSNorm(eps=1e-5))
QWEN3 = dict(
    vocab=151_936,
    kv_heads=8,
    head_size=128,
    qk_norm=True,
    tied=True,
    positions=Rope(base=1_000_000.0),
)


def gpt2_small(**changes) -> ModelConfig:
    """GPT-2 small: 12 layers of width 768 (Radford et al. 2019)."""
    return _gpt2(12, 768, 12, **changes)


def gpt2_medium(**changes) -> ModelConfig:
    """GPT-2 medium: 24 layers of width 1024 (Radford et al. 2019)."""
    return _gpt2(24, 1024, 16, **changes)


def gpt2_large(**changes) -> ModelConfig:
    """GPT-2 large: 36 layers of width 1280 (Radford et al. 2019)."""
    return _gpt2(36, 1280, 20, **changes)


def gpt2_xl(**changes) -> ModelConfig:
    """GPT-2 xl: 48 layers of width 1600 (Radford et al. 2019)."""
    return _gpt2(48, 1600, 25, **changes)


def gpt3_small(**changes) -> ModelConfig:
    """Of the sizes of GPT-3 the one of 12 layers of width 768 (Brown et al. 2020)."""
    return _gpt3(12, 768, 12, 64, **changes)


def gpt3_medium(**changes) -> ModelConfig:
    """Of the sizes of GPT-3 the one of 24 layers of width 1024 (Brown et al. 2020)."""
    return _gpt3(24, 1024, 16, 64, **changes)


def gpt3_large(**changes) -> ModelConfig:
    """Of the sizes of GPT-3 the one of 24 layers of width 1536 (Brown et al. 2020)."""
    return _gpt3(24, 1536, 16, 96, **changes)


def gpt3_xl(**changes) -> ModelConfig:
    """Of the sizes of GPT-3 the one of 24 layers of width 2048 (Brown et al. 2020)."""
    return _gpt3(24, 2048, 24, 128, **changes)


def gpt3_2_7b(**changes) -> ModelConfig:
    """Of the sizes of GPT-3 the one of 32 layers of width 2560 (Brown et al. 2020)."""
    return _gpt3(32, 2560, 32, 80, **changes)


def gpt3_6_7b(**changes) -> ModelConfig:
    """Of the sizes of GPT-3 the one of 32 layers of width 4096 (Brown et al. 2020)."""
    return _gpt3(32, 4096, 32, 128, **changes)


def gpt3_13b(**changes) -> ModelConfig:
    """Of the sizes of GPT-3 the one of 40 layers of width 5140 (Brown et al. 2020)."""
    return _gpt3(40, 5140, 40, 128, **changes)


def gpt3_175b(**changes) -> ModelConfig:
    """Of the sizes of GPT-3 the one of 96 layers of width 12288 (Brown et al. 2020)."""
    return _gpt3(96, 12288, 96, 128, **changes)


def turing_nlg_17b(**changes) -> ModelConfig:
    """A decoder of the size of Turing-NLG (Rosset 2020)."""
    return _gpt2(78, 4256, 28, **changes)


def llama_7b(**changes) -> ModelConfig:
    """Llama 7B (Touvron et al. 2023a)."""
    return _llama(32, 4096, 32, 11_008, **changes)


def llama_13b(**changes) -> ModelConfig:
    """Llama 13B (Touvron et al. 2023a)."""
    return _llama(40, 5120, 40, 13_824, **changes)


def llama2_7b(**changes) -> ModelConfig:
    """Llama 2 7B (Touvron et al. 2023b)."""
    return _llama(32, 4096, 32, 11_008, **{**dict(norm=RMSNorm(eps=1e-5)), **changes})


def llama3_8b(**changes) -> ModelConfig:
    """Llama 3 8B (Grattafiori et al. 2024)."""
    return _llama(32, 4096, 32, 14_336, **LLAMA3 | changes)


def qwen3_0_6b(**changes) -> ModelConfig:
    """Qwen3 0.6B (Yang et al. 2025)."""
    return _llama(28, 1024, 16, 3072, **QWEN3 | changes)


def qwen3_1_7b(**changes) -> ModelConfig:
    """Qwen3 1.7B (Yang et al. 2025)."""
    return _llama(28, 2048, 16, 6144, **QWEN3 | changes)


def _gpt2(layers: int, embed: int, heads: int, /, **changes) -> ModelConfig:
    fields = dict(
        vocab=50_257,
        embed=embed,
        heads=heads,
        mlp=4 * embed,
        decoder_layers=layers,
        positions=Learned(length=1024),
        norm=LayerNorm(eps=1e-5),
        activation=gelu_tanh,
        bias=True,
        init=Normal(std=0.02, scale_residual=True, positions=0.01),
    )
    return ModelConfig(**fields | changes)


def _gpt3(layers: int, embed: int, heads: int, head_size: int, /, **changes) -> ModelConfig:
    """GPT-2's architecture with full attention in every layer, on 2,048 tokens."""
    own = dict(head_size=head_size, positions=Learned(length=2048))
    return _gpt2(layers, embed, heads, **own | changes)


def _llama(layers: int, embed: int, heads: int, mlp: int, /, **changes) -> ModelConfig:
    fields = dict(
        vocab=32_000,
        embed=embed,
        heads=heads,
        mlp=mlp,
        decoder_layers=layers,
        positions=Rope(base=10_000.0),
        norm=RMSNorm(eps=1e-6),
        activation=silu,
        gated=True,
        tied=False,
        init=Normal(std=0.02),
    )
    return ModelConfig(**fields | changes)
