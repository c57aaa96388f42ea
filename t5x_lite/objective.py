"""Objectives: how token ids become batches, which way through the model, and which losses."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.errors import ConfigError
from t5x_lite.metrics import Mean

Batch = Mapping[str, Any]  # seqio's model-feature names -> arrays [B, ...]
Outputs = Mapping[str, jax.Array]
Schedule = Callable[[Any], Any]  # step -> float


class Converter(Protocol):
    """Token ids to batches, in NumPy. Stateless: what has to be remembered lives in the cutter."""

    @property
    def features(self) -> tuple[str, ...]:
        """Features that each example must have, `('targets',)` for a text task."""

    @property
    def longest(self) -> int | None:
        """Of a document of more tokens one piece of that many is used, drawn each time anew."""

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        """Raises ConfigError if lengths (or, once it is known, the vocabulary) cannot work."""

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shape of one row and dtype of every array of a batch, without any data."""

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> Any:
        """A `data.packing.Cutter`: examples in, fixed-size rows out, with a position to save.

        `seed`, integers of 0 or more, is for cutters that draw (`data.randomness.uniforms`).
        """

    def draws(self, lengths: Mapping[str, int]) -> int:
        """How many uniform numbers a row needs."""

    def batch(self, rows, lengths, vocabulary, uniforms: np.ndarray) -> dict[str, np.ndarray]:
        """Rows of the cutter [n] and their numbers in [0, 1), [n, draws], to the arrays of spec."""


class Loss(Protocol):
    """A loss over a forward's outputs. `loss` is differentiated, the other means are reported."""

    def __call__(self, model, head, outputs: Outputs, batch: Batch) -> dict[str, Mean]: ...


@dataclass(frozen=True, kw_only=True)
class Term:
    """One loss of an objective: its weight (a float or a schedule of the step) and its head.

    `head(config, rngs)` makes a module with parameters of its own; `None` uses the model's logits.
    `batchwide` says that examples of a batch enter each other's loss (in-batch negatives).
    """

    loss: Loss
    weight: float | Schedule = 1.0
    head: Callable | None = None
    batchwide: bool = False

    def __post_init__(self):
        if not callable(self.weight) and self.weight < 0:
            raise ConfigError(f'Term: weight={self.weight} must be 0 or more; use 0 to switch off')


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What we do with a text: converter (to batches), forward (a path through the model), terms.

    `parts` are modules beside the trunk that the forward runs through, such as a generator: values
    with `build(config, rngs)` by the name under which the forward finds them in `model.heads`.
    `teachers` are parts that do not learn (`objectives.distillation.Teacher`).
    """

    converter: Converter
    forward: Callable[..., Outputs]
    terms: Mapping[str, Term] = field(default_factory=dict)
    parts: Mapping[str, Any] = field(default_factory=dict)
    teachers: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if not self.terms:
            raise ConfigError('Objective: terms={} must name at least one Term(loss=...)')

    def prefixes(self, stream: str) -> dict[str, str]:
        """What a term's metrics begin with: the stream, and the term where there are several."""
        return {n: stream if len(self.terms) == 1 else f'{stream}/{n}' for n in self.terms}

    def means(self, model, batch: Batch, key=None) -> dict[str, dict[str, Mean]]:
        """Every term's means over one forward: {term: {'loss': Mean, ...}}; dropout if key."""
        outputs = self.forward(model, batch, key)
        return {
            name: term.loss(model, model.heads[name] if term.head else None, outputs, batch)
            for name, term in self.terms.items()
        }


def needs(*stacks: str, dropout: bool = False):
    """Marks a forward with the stacks it runs through ('encoder', 'decoder').

    `dropout` says that it makes no sense without: its views of a row differ in nothing else.
    """

    def mark(forward):
        forward.needs, forward.needs_dropout = stacks, dropout
        return forward

    return mark


@needs('encoder')
def encode(model, batch: Batch, key=None) -> Outputs:
    """One pass through the encoder: `encoder_hidden` [B, L, D]; who sees whom by order if given."""
    order = None
    if 'encoder_order' in batch:
        order = batch['encoder_order'], batch['encoder_reach']
    hidden_BxLxD = model.encode(
        batch['encoder_input_tokens'],
        segments=batch['encoder_segment_ids'],
        positions=batch['encoder_positions'],
        types=batch.get('token_type_ids'),
        order=order,
        key=key,
    )
    return {'encoder_hidden': hidden_BxLxD}


@needs('encoder', dropout=True)
def encode_twice(model, batch: Batch, key=None) -> Outputs:
    """Two views of each row that differ in their dropout masks: `encoder_hidden` and `_2`.

    Rows are repeated next to each other, so that both views stay on the row's device, and go
    through the encoder as one batch of 2B whose dropout masks are drawn independently.
    """
    twice = {name: jnp.repeat(x, 2, axis=0) for name, x in batch.items()}
    hidden = encode(model, twice, key)['encoder_hidden']
    views_Bx2xLxD = hidden.reshape(-1, 2, *hidden.shape[1:])
    return {'encoder_hidden': views_Bx2xLxD[:, 0], 'encoder_hidden_2': views_Bx2xLxD[:, 1]}


@needs('decoder')
def decode(model, batch: Batch, key=None) -> Outputs:
    """One pass through the decoder alone: `decoder_hidden` [B, L, D]; causal, or prefix causal."""
    hidden_BxLxD, _ = model.decode(
        batch['decoder_input_tokens'],
        segments=batch['decoder_segment_ids'],
        positions=batch['decoder_positions'],
        prefix=batch.get('decoder_causal_attention'),
        key=key,
    )
    return {'decoder_hidden': hidden_BxLxD}


@needs('encoder', 'decoder')
def encode_decode(model, batch: Batch, key=None) -> Outputs:
    """Encoder, then decoder with attention to it: `encoder_hidden` and `decoder_hidden`."""
    keys = (None, None) if key is None else jax.random.split(key)
    outputs = encode(model, batch, keys[0])
    hidden_BxLxD, _ = model.decode(
        batch['decoder_input_tokens'],
        segments=batch['decoder_segment_ids'],
        positions=batch['decoder_positions'],
        memory=outputs['encoder_hidden'],
        memory_segments=batch['encoder_segment_ids'],
        key=keys[1],
    )
    return {**outputs, 'decoder_hidden': hidden_BxLxD}
