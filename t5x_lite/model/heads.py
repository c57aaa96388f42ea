"""Heads as values: masked LM, sentence vector, classifier; `build` makes their weights."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
from dataclasses import dataclass

from t5x_lite.errors import ConfigError
from t5x_lite.model.activations import tanh

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
    """dense(D, width): hidden states as wide as a teacher's."""

    width: int

    def build(self, config, rngs):
        from t5x_lite.model.layers import Linear

        spread = config.init.stddev('linear', config.embed, config)
        return Linear((config.embed, self.width), ('embed', None), spread, rngs, bias=True)


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
