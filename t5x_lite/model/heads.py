"""Heads as values: masked LM, sentence vectors, classifier, generator; `build` makes weights."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from t5x_lite.errors import ConfigError
from t5x_lite.model.activations import tanh
from t5x_lite.model.config import ModelConfig

# Their modules live in head_modules.py, imported by `build`: reading a config stays fast.


@dataclass(frozen=True)
class MaskedLMHead:
    """dense(D, D), activation, norm, then the tied embedding and a bias (Devlin et al. 2018).

    `bias=False` leaves the dense layer's bias out (ModernBERT).
    """

    bias: bool = True

    def build(self, config, rngs):
        from t5x_lite.model.head_modules import MaskedLM

        return MaskedLM(config, rngs, self.bias)


@dataclass(frozen=True)
class SentenceHead:
    """dense(D, D) and tanh on a pooled vector (BERT's pooler; SimCSE's training-time MLP)."""

    def build(self, config, rngs):
        from t5x_lite.model.head_modules import Sentence

        return Sentence(config, rngs)


@dataclass(frozen=True)
class ProjectionHead:
    """dense(D, width): hidden states as wide as a teacher's. No export has it."""

    width: int
    training_only: ClassVar[bool] = True

    def build(self, config, rngs):
        from t5x_lite.model.layers import Linear

        spread = config.init.stddev('linear', config.embed, config)
        return Linear((config.embed, self.width), ('embed', None), spread, rngs, bias=True)


@dataclass(frozen=True, kw_only=True)
class SimilarityHead:
    """dense(D, size) without bias on a pooled vector, as dual encoders have it; size None is D.

    `separate` gives keys a matrix of their own. With a `temperature` the factor of the cosines is
    learned: exp(t), t = ln(1 / temperature) at first; t is never decayed, and set back to ln 100
    after an update that leads above (CLIP: Radford et al. 2021, temperature 0.07).
    """

    size: int | None = None
    separate: bool = False
    temperature: float | None = None

    def __post_init__(self):
        if self.size is not None and (type(self.size) is not int or self.size < 1):
            raise ConfigError(
                f'SimilarityHead: size={self.size!r} must be an integer of 1 or more, or None for '
                "the model's width"
            )
        if self.temperature is not None and self.temperature < 0.01:
            raise ConfigError(
                f'SimilarityHead: temperature={self.temperature} must be 0.01 or more; try 0.07'
            )

    def build(self, config, rngs):
        from t5x_lite.model.head_modules import Similarity

        return Similarity(self, config, rngs)


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A second encoder, equal to the model's but for its weights, embeddings included.

    A part of an objective (`Objective.parts`), with the methods of a model: `encode`, `embed`.
    """

    def build(self, config, rngs):
        from t5x_lite.model.transformer import Model

        return Model(dataclasses.replace(config, decoder_layers=0, tied=True), rngs)


@dataclass(frozen=True, kw_only=True)
class ClassifierHead:
    """Scores of `labels` classes for a vector, or for each of a row's vectors.

    dense(D, D), `activation`, norm if `norm`, then dense(D, labels); with `activation=None` the
    last layer alone. BERT's pooler and next-sentence layer are ClassifierHead(labels=2), ELECTRA's
    discriminator (labels=1, activation=gelu), span QA (labels=2, activation=None).
    """

    labels: int
    activation: Callable | None = tanh
    norm: bool = False
    hidden_bias: bool = True
    bias: bool = True

    def __post_init__(self):
        if type(self.labels) is not int or self.labels < 1:
            raise ConfigError(
                f'ClassifierHead: labels={self.labels!r} must be an integer of 1 or more'
            )
        if self.norm and self.activation is None:
            raise ConfigError(
                'ClassifierHead: norm=True follows a hidden layer, but activation=None has none; '
                'set an activation or norm=False'
            )

    def build(self, config, rngs):
        from t5x_lite.model.head_modules import Classifier

        return Classifier(self, config, rngs)


@dataclass(frozen=True, kw_only=True)
class Generator:
    """A masked LM of `width` times the model's width over the model's own embeddings (ELECTRA).

    It has as many layers; heads, head groups and feed-forward layers are scaled alike. Published:
    1/4, for ELECTRA base 1/3 (Clark et al. 2020). Its parts are in model/generator.py.
    """

    width: float = 0.25

    def __post_init__(self):
        if not 0 < self.width <= 1:
            raise ConfigError(f'Generator: width={self.width} must be in (0, 1]; try 0.25')

    def narrowed(self, config: ModelConfig) -> ModelConfig:
        """The generator's own layers: of the nearest width that is whole heads of an even size.

        What is added to token embeddings, and their norm, is the model's: it is left out here.
        """
        scaled = lambda size: max(1, round(size * self.width))
        heads = scaled(config.heads)
        groups = config.kv_heads and math.gcd(heads, scaled(config.kv_heads))
        return dataclasses.replace(
            config,
            embed=2 * heads * scaled(config.embed / (2 * heads)),
            heads=heads,
            kv_heads=groups,
            mlp=scaled(config.mlp),
            decoder_layers=0,
            embedding_size=config.table,
            types=0,
            positions=config.positions.inside,
            norm_embedding=False,
        )

    def build(self, config, rngs):
        from t5x_lite.model.generator import NarrowMaskedLM

        return NarrowMaskedLM(self.narrowed(config), rngs)
