"""Named architectures: small ones, and BERT, GPT-2 and T5 1.1 as published."""
# SPDX-License-Identifier: Apache-2.0

# Each takes ModelConfig's fields as changes: `bert_base(dropout=0.0)`.

from t5x_lite.model.activations import gelu, gelu_tanh
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.inits import FanIn, Normal
from t5x_lite.model.norms import LayerNorm, RMSNorm
from t5x_lite.model.positions import Learned, Relative, Rope


def encoder_mini(**changes) -> ModelConfig:
    """4 encoder layers of width 256 for the bundled vocabulary."""
    return ModelConfig(**_mini(encoder_layers=4) | changes)


def decoder_mini(**changes) -> ModelConfig:
    """4 decoder layers of width 256 for the bundled vocabulary."""
    return ModelConfig(**_mini(decoder_layers=4) | changes)


def encoder_decoder_mini(**changes) -> ModelConfig:
    """4 encoder and 4 decoder layers of width 256 for the bundled vocabulary."""
    return ModelConfig(**_mini(encoder_layers=4, decoder_layers=4) | changes)


def _mini(**layers) -> dict:
    return dict(
        vocab=8192, embed=256, heads=4, mlp=1024, positions=Rope(), norm=RMSNorm(), **layers
    )


def bert_base(**changes) -> ModelConfig:
    """BERT base (Devlin et al. 2018), without the marks of sentences A and B."""
    fields = dict(
        vocab=30_522,
        embed=768,
        heads=12,
        mlp=3072,
        encoder_layers=12,
        positions=Learned(length=512),
        norm=LayerNorm(eps=1e-12),
        norm_first=False,
        norm_embedding=True,
        activation=gelu,
        bias=True,
        dropout=0.1,
        init=Normal(std=0.02),
    )
    return ModelConfig(**fields | changes)


def gpt2_small(**changes) -> ModelConfig:
    """GPT-2 of 124 M parameters (Radford et al. 2019)."""
    fields = dict(
        vocab=50_257,
        embed=768,
        heads=12,
        mlp=3072,
        decoder_layers=12,
        positions=Learned(length=1024),
        norm=LayerNorm(eps=1e-5),
        activation=gelu_tanh,
        bias=True,
        init=Normal(std=0.02, scale_residual=True),
    )
    return ModelConfig(**fields | changes)


def t5_1_1_base(**changes) -> ModelConfig:
    """T5 1.1 base (Raffel et al. 2020; Shazeer 2020), without dropout as in pre-training."""
    sizes = dict(embed=768, heads=12, mlp=2048, encoder_layers=12, decoder_layers=12)
    return ModelConfig(**_t5_1_1(**sizes) | changes)


def t5_1_1_large(**changes) -> ModelConfig:
    """T5 1.1 large (Raffel et al. 2020; Shazeer 2020), without dropout as in pre-training."""
    sizes = dict(embed=1024, heads=16, mlp=2816, encoder_layers=24, decoder_layers=24)
    return ModelConfig(**_t5_1_1(**sizes) | changes)


def _t5_1_1(**sizes) -> dict:
    return dict(
        vocab=32_128,
        head_size=64,
        positions=Relative(buckets=32, max_distance=128),
        norm=RMSNorm(eps=1e-6),
        activation=gelu_tanh,
        gated=True,
        tied=False,
        scale_attention=False,
        init=FanIn(embedding=1.0),
        **sizes,
    )
