"""Encoders as published: BERT, RoBERTa, ELECTRA, ModernBERT."""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.model.activations import gelu
from t5x_lite.model.config import Local, ModelConfig
from t5x_lite.model.inits import Normal
from t5x_lite.model.norms import LayerNorm
from t5x_lite.model.positions import Learned, Rope


def bert_tiny(**changes) -> ModelConfig:
    """BERT tiny: 2 layers of width 128 (Turc et al. 2019)."""
    return _bert(2, 128, 2, **changes)


def bert_mini(**changes) -> ModelConfig:
    """BERT mini: 4 layers of width 256 (Turc et al. 2019)."""
    return _bert(4, 256, 4, **changes)


def bert_small(**changes) -> ModelConfig:
    """BERT small: 4 layers of width 512 (Turc et al. 2019)."""
    return _bert(4, 512, 8, **changes)


def bert_medium(**changes) -> ModelConfig:
    """BERT medium: 8 layers of width 512 (Turc et al. 2019)."""
    return _bert(8, 512, 8, **changes)


def bert_base(**changes) -> ModelConfig:
    """BERT base: 12 layers of width 768 (Devlin et al. 2018)."""
    return _bert(12, 768, 12, **changes)


def bert_large(**changes) -> ModelConfig:
    """BERT large: 24 layers of width 1024 (Devlin et al. 2018)."""
    return _bert(24, 1024, 16, **changes)


def roberta_base(**changes) -> ModelConfig:
    """RoBERTa base: 12 layers of width 768 (Liu et al. 2019)."""
    return _roberta(12, 768, 12, **changes)


def roberta_large(**changes) -> ModelConfig:
    """RoBERTa large: 24 layers of width 1024 (Liu et al. 2019)."""
    return _roberta(24, 1024, 16, **changes)


def electra_small(**changes) -> ModelConfig:
    """ELECTRA small, the discriminator (Clark et al. 2020)."""
    return _bert(12, 256, 4, **{**_narrow(128, 256), **changes})


def electra_small_generator(**changes) -> ModelConfig:
    """The generator of ELECTRA small (Clark et al. 2020)."""
    return _bert(12, 64, 1, **{**_narrow(128, 64), **changes})


def electra_base(**changes) -> ModelConfig:
    """ELECTRA base, the discriminator (Clark et al. 2020)."""
    return _bert(12, 768, 12, **{**_narrow(768, 768), **changes})


def electra_base_generator(**changes) -> ModelConfig:
    """The generator of ELECTRA base (Clark et al. 2020)."""
    return _bert(12, 256, 4, **{**_narrow(768, 256), **changes})


def electra_large(**changes) -> ModelConfig:
    """ELECTRA large, the discriminator (Clark et al. 2020)."""
    return _bert(24, 1024, 16, **{**_narrow(1024, 1024), **changes})


def electra_large_generator(**changes) -> ModelConfig:
    """The generator of ELECTRA large (Clark et al. 2020)."""
    return _bert(24, 256, 4, **{**_narrow(1024, 256), **changes})


def modernbert_base(**changes) -> ModelConfig:
    """ModernBERT base (Warner et al. 2024)."""
    return _modernbert(22, 768, 12, 1152, **changes)


def modernbert_large(**changes) -> ModelConfig:
    """ModernBERT large (Warner et al. 2024)."""
    return _modernbert(28, 1024, 16, 2624, **changes)


def _bert(layers: int, embed: int, heads: int, /, **changes) -> ModelConfig:
    fields = dict(
        vocab=30_522,
        types=2,
        embed=embed,
        heads=heads,
        mlp=4 * embed,
        encoder_layers=layers,
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


def _roberta(layers: int, embed: int, heads: int, /, **changes) -> ModelConfig:
    own = dict(
        vocab=50_265, types=1, positions=Learned(length=512, offset=2), norm=LayerNorm(eps=1e-5)
    )
    return _bert(layers, embed, heads, **own | changes)


def _narrow(table: int, embed: int) -> dict:
    """ELECTRA's tables have the discriminator's width, whatever the width of the layers."""
    return {} if table == embed else dict(embedding_size=table)


def _modernbert(layers: int, embed: int, heads: int, mlp: int, /, **changes) -> ModelConfig:
    fields = dict(
        vocab=50_368,
        embed=embed,
        heads=heads,
        mlp=mlp,
        encoder_layers=layers,
        positions=Rope(base=160_000.0, local_base=10_000.0),
        local=Local(reach=64, global_every=3),
        norm=LayerNorm(eps=1e-5, bias=False),
        norm_embedding=True,
        first_norm=False,
        activation=gelu,
        gated=True,
        init=Normal(std=0.02, scale_residual=True),
    )
    return ModelConfig(**fields | changes)
