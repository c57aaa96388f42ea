"""Small models for the bundled text: an encoder, a decoder, both."""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.model.config import ModelConfig
from t5x_lite.model.norms import RMSNorm
from t5x_lite.model.positions import Rope


def encoder_mini(**changes) -> ModelConfig:
    """4 encoder layers of width 256 for the bundled vocabulary."""
    return _mini(**dict(encoder_layers=4) | changes)


def decoder_mini(**changes) -> ModelConfig:
    """4 decoder layers of width 256 for the bundled vocabulary."""
    return _mini(**dict(decoder_layers=4) | changes)


def encoder_decoder_mini(**changes) -> ModelConfig:
    """4 encoder and 4 decoder layers of width 256 for the bundled vocabulary."""
    return _mini(**dict(encoder_layers=4, decoder_layers=4) | changes)


def _mini(**changes) -> ModelConfig:
    fields = dict(vocab=8192, embed=256, heads=4, mlp=1024, positions=Rope(), norm=RMSNorm())
    return ModelConfig(**fields | changes)
