"""Encoder-decoders as published: T5, T5 1.1, mT5, umT5, ByT5, BART."""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.model.activations import gelu, gelu_tanh, relu
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.inits import FanIn, Normal
from t5x_lite.model.norms import LayerNorm, RMSNorm
from t5x_lite.model.positions import Learned, Relative

UMT5 = dict(vocab=256_384, positions=Relative(buckets=32, max_distance=128, per_layer=True))


def t5_small(**changes) -> ModelConfig:
    """T5 small, version 1.0 (Raffel et al. 2020)."""
    return _t5(6, 512, 8, 2048, **changes)


def t5_base(**changes) -> ModelConfig:
    """T5 base, version 1.0 (Raffel et al. 2020)."""
    return _t5(12, 768, 12, 3072, **changes)


def t5_large(**changes) -> ModelConfig:
    """T5 large, version 1.0 (Raffel et al. 2020)."""
    return _t5(24, 1024, 16, 4096, **changes)


def t5_3b(**changes) -> ModelConfig:
    """T5 3b, version 1.0 (Raffel et al. 2020)."""
    return _t5(24, 1024, 32, 16384, **dict(head_size=128) | changes)


def t5_11b(**changes) -> ModelConfig:
    """T5 11b, version 1.0 (Raffel et al. 2020)."""
    return _t5(24, 1024, 128, 65536, **dict(head_size=128) | changes)


def t5_1_1_small(**changes) -> ModelConfig:
    """T5 1.1 small, without dropout as in pre-training (Shazeer 2020)."""
    return _t5_1_1(8, 512, 6, 1024, **changes)


def t5_1_1_base(**changes) -> ModelConfig:
    """T5 1.1 base, without dropout as in pre-training (Shazeer 2020)."""
    return _t5_1_1(12, 768, 12, 2048, **changes)


def t5_1_1_large(**changes) -> ModelConfig:
    """T5 1.1 large, without dropout as in pre-training (Shazeer 2020)."""
    return _t5_1_1(24, 1024, 16, 2816, **changes)


def t5_1_1_xl(**changes) -> ModelConfig:
    """T5 1.1 xl, without dropout as in pre-training (Shazeer 2020)."""
    return _t5_1_1(24, 2048, 32, 5120, **changes)


def t5_1_1_xxl(**changes) -> ModelConfig:
    """T5 1.1 xxl, without dropout as in pre-training (Shazeer 2020)."""
    return _t5_1_1(24, 4096, 64, 10240, **changes)


def mt5_small(**changes) -> ModelConfig:
    """mT5 small (Xue et al. 2020)."""
    return _t5_1_1(8, 512, 6, 1024, **dict(vocab=250_112) | changes)


def mt5_base(**changes) -> ModelConfig:
    """mT5 base (Xue et al. 2020)."""
    return _t5_1_1(12, 768, 12, 2048, **dict(vocab=250_112) | changes)


def mt5_large(**changes) -> ModelConfig:
    """mT5 large (Xue et al. 2020)."""
    return _t5_1_1(24, 1024, 16, 2816, **dict(vocab=250_112) | changes)


def mt5_xl(**changes) -> ModelConfig:
    """mT5 xl (Xue et al. 2020)."""
    return _t5_1_1(24, 2048, 32, 5120, **dict(vocab=250_112) | changes)


def mt5_xxl(**changes) -> ModelConfig:
    """mT5 xxl (Xue et al. 2020)."""
    return _t5_1_1(24, 4096, 64, 10240, **dict(vocab=250_112) | changes)


def umt5_small(**changes) -> ModelConfig:
    """umT5 small (Chung et al. 2023)."""
    return _t5_1_1(8, 512, 6, 1024, **UMT5 | changes)


def umt5_base(**changes) -> ModelConfig:
    """umT5 base (Chung et al. 2023)."""
    return _t5_1_1(12, 768, 12, 2048, **UMT5 | changes)


def umt5_xl(**changes) -> ModelConfig:
    """umT5 xl (Chung et al. 2023)."""
    return _t5_1_1(24, 2048, 32, 5120, **UMT5 | changes)


def umt5_xxl(**changes) -> ModelConfig:
    """umT5 xxl (Chung et al. 2023)."""
    return _t5_1_1(24, 4096, 64, 10240, **UMT5 | changes)


def byt5_small(**changes) -> ModelConfig:
    """ByT5 small (Xue et al. 2021)."""
    return _byt5(12, 4, 1472, 6, 3584, **changes)


def byt5_base(**changes) -> ModelConfig:
    """ByT5 base (Xue et al. 2021)."""
    return _byt5(18, 6, 1536, 12, 3968, **changes)


def byt5_large(**changes) -> ModelConfig:
    """ByT5 large (Xue et al. 2021)."""
    return _byt5(36, 12, 1536, 16, 3840, **changes)


def byt5_xl(**changes) -> ModelConfig:
    """ByT5 xl (Xue et al. 2021)."""
    return _byt5(36, 12, 2560, 32, 6720, **changes)


def byt5_xxl(**changes) -> ModelConfig:
    """ByT5 xxl (Xue et al. 2021)."""
    return _byt5(36, 12, 4672, 64, 12352, **changes)


def bart_base(**changes) -> ModelConfig:
    """BART base (Lewis et al. 2019)."""
    return _bart(6, 768, 12, **changes)


def bart_large(**changes) -> ModelConfig:
    """BART large (Lewis et al. 2019)."""
    return _bart(12, 1024, 16, **changes)


def _t5(layers: int, embed: int, heads: int, mlp: int, /, **changes) -> ModelConfig:
    fields = dict(
        vocab=32_128,  # of which the tokenizer has 32,100
        embed=embed,
        heads=heads,
        mlp=mlp,
        encoder_layers=layers,
        decoder_layers=layers,
        head_size=64,
        positions=Relative(buckets=32, max_distance=128),
        norm=RMSNorm(eps=1e-6),
        activation=relu,
        scale_attention=False,
        scale_logits=True,
        dropout=0.1,
        init=FanIn(embedding=1.0),
    )
    return ModelConfig(**fields | changes)


def _t5_1_1(layers: int, embed: int, heads: int, mlp: int, /, **changes) -> ModelConfig:
    own = dict(activation=gelu_tanh, gated=True, tied=False, scale_logits=False, dropout=0.0)
    return _t5(layers, embed, heads, mlp, **own | changes)


def _byt5(
    encoder: int, decoder: int, embed: int, heads: int, mlp: int, /, **changes
) -> ModelConfig:
    own = dict(vocab=384, decoder_layers=decoder)
    return _t5_1_1(encoder, embed, heads, mlp, **own | changes)


def _bart(layers: int, embed: int, heads: int, /, **changes) -> ModelConfig:
    fields = dict(
        vocab=50_265,
        embed=embed,
        heads=heads,
        mlp=4 * embed,
        encoder_layers=layers,
        decoder_layers=layers,
        positions=Learned(length=1024, offset=2),
        norm=LayerNorm(eps=1e-5),
        norm_first=False,
        norm_embedding=True,
        activation=gelu,
        bias=True,
        dropout=0.1,
        init=Normal(std=0.02),
    )
    return ModelConfig(**fields | changes)
