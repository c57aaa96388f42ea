"""Published ways to fine-tune, as rules of a model: what learns, how fast, from which step."""
# SPDX-License-Identifier: Apache-2.0

from dataclasses import dataclass

from t5x_lite.schedules import is_number, require
from t5x_lite.selector import Rules

# All are values for Experiment.trainable or Experiment.rate_factors: called with the ModelConfig,
# they give the pairs of selector.py. Head patterns go together with others, for models without.

EMBEDDINGS = r'^token_embedding/|^(encoder|decoder)/(types|positions|embedding_norm|projection)/'


def layer_patterns(model) -> list[str]:
    """A pattern for each layer, the lowest first: encoder, then decoder; norms with the last."""
    out = []
    for stack in model.stacks:
        count = getattr(model, f'{stack}_layers')
        out += [f'^{stack}/blocks/{i}/' for i in range(count)]
        out[-1] += f'|^{stack}/norm/'
    return out


@dataclass(frozen=True)
class LastLayers:
    """`trainable`: the last `count` layers with the norm after them, and the heads."""

    count: int

    def __post_init__(self):
        holds = type(self.count) is int and self.count >= 1
        require(self, 'count', holds, 'an integer of 1 or more', 2)

    def __call__(self, model) -> Rules:
        known = layer_patterns(model)
        rule = f'at most the {len(known)} layers of the model'
        require(self, 'count', self.count <= len(known), rule, len(known))
        return (('|'.join([*known[-self.count :], '^(heads|output)/']), True), ('.*', False))


@dataclass(frozen=True)
class HeadOnly:
    """`trainable`: the heads, and an output matrix of its own."""

    def __call__(self, model) -> Rules:
        return (('^(heads|output)/', True), ('.*', False))


@dataclass(frozen=True)
class BitFit:
    """`trainable`: all biases, and the heads (Ben Zaken et al. 2022)."""

    def __call__(self, model) -> Rules:
        return (('(^|/)bias$|^heads/', True), ('.*', False))


@dataclass(frozen=True, kw_only=True)
class LayerDecay:
    """`rate_factors`: decay^(layers + above - 1 - i) for layer i from 0, 1 for the heads.

    Embeddings are one below layer 0. above=2 is ELECTRA's d^(n+2-depth) (Clark et al. 2020: 0.8,
    large 0.9), above=1 ULMFiT's discriminative rates.
    """

    decay: float = 0.8
    above: int = 2

    def __post_init__(self):
        holds = is_number(self.decay) and 0 < self.decay <= 1
        require(self, 'decay', holds, 'a factor in (0, 1]', 0.8)
        holds = type(self.above) is int and self.above >= 0
        require(self, 'above', holds, 'an integer of 0 or more', 2)

    def __call__(self, model) -> Rules:
        patterns = [EMBEDDINGS, *layer_patterns(model)]
        most = len(patterns) - 1 + self.above
        pairs = [(pattern, self.decay ** (most - i)) for i, pattern in enumerate(patterns)]
        return (*pairs, ('.*', 1.0))


def discriminative(ratio: float = 2.6) -> LayerDecay:
    """Each layer's rate that of the next one above / ratio (ULMFiT: Howard & Ruder 2018)."""
    return LayerDecay(decay=1 / ratio, above=1)


@dataclass(frozen=True, kw_only=True)
class GradualUnfreezing:
    """`trainable`: the heads and the last `first` layers, and every `every` steps a layer more.

    From the top down, the embeddings last (ULMFiT: Howard & Ruder 2018; `every` is an epoch). What
    has begun goes on with its optimizer state, what begins has none and counts its own steps; the
    learning rate is that of the run's step.
    """

    every: int
    first: int = 0

    def __post_init__(self):
        holds = type(self.every) is int and self.every >= 1
        require(self, 'every', holds, 'an integer of 1 or more', 1000)
        holds = type(self.first) is int and self.first >= 0
        require(self, 'first', holds, 'an integer of 0 or more', 0)

    def __call__(self, model) -> Rules:
        downward = [*reversed(layer_patterns(model)), EMBEDDINGS]
        pairs = [
            (pattern, True if i < self.first else (i + 1 - self.first) * self.every)
            for i, pattern in enumerate(downward)
        ]
        return (*pairs, ('.*', True))
