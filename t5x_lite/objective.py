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

    # Optional: `packs`, True if `segment_ids` may be more than 1 on a text and then 0 on padding.

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
    """A loss over a forward's outputs. `loss` is differentiated, the other means are reported.

    One that scores tokens says on which `side` and reports `nll`: it gets bits per byte.
    """

    def __call__(self, model, head, outputs: Outputs, batch: Batch) -> dict[str, Mean]: ...


class BatchwideLoss(Protocol):
    """A loss in which rows of a batch meet, in two halves, so that microbatches can be joined.

    `own_negatives` says that a row alone has something to be told from.
    """

    own_negatives: bool

    def embed(self, model, head, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """What other rows will see of each row: float arrays [b, ...]."""

    def compare(self, model, head, vectors, batch: Batch) -> dict[str, Mean]:
        """The means, as of `Loss`, over the vectors [B, ...] of the whole batch."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """One loss of an objective: its weight (a float or a schedule of the step) and its head.

    `head(config, rngs)` makes a module with parameters of its own; `None` uses the model's logits.
    `batchwide` says that examples of a batch enter each other's loss (in-batch negatives).
    """

    loss: Loss | BatchwideLoss
    weight: float | Schedule = 1.0
    head: Callable | None = None
    batchwide: bool = False

    def __post_init__(self):
        if not callable(self.weight) and self.weight < 0:
            raise ConfigError(f'Term: weight={self.weight} must be 0 or more; use 0 to switch off')
        missing = [name for name in ('embed', 'compare') if not hasattr(self.loss, name)]
        if self.batchwide and missing:
            raise ConfigError(
                f'Term: batchwide=True needs a loss in two halves, embed and compare, but '
                f'{type(self.loss).__name__} has no {missing[0]}; see objective.BatchwideLoss'
            )


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
        means, vectors = self.apart(model, batch, key)
        return means | self.together(model, vectors, batch)

    def apart(self, model, batch: Batch, key=None) -> tuple[dict, dict]:
        """One forward: the means of terms that look at each row by itself, others' vectors."""
        outputs = self.forward(model, self._one_text_a_row(batch), key)
        means, vectors = {}, {}
        for name, term in self.terms.items():
            args = model, self._head(model, name), outputs, batch
            if term.batchwide:
                vectors[name] = term.loss.embed(*args)
            else:
                means[name] = term.loss(*args)
        return means, vectors

    def together(self, model, vectors, batch: Batch) -> dict[str, dict[str, Mean]]:
        """The means of the batchwide terms, from the vectors of the whole batch."""
        return {
            name: self.terms[name].loss.compare(model, self._head(model, name), found, batch)
            for name, found in vectors.items()
        }

    def _one_text_a_row(self, batch: Batch) -> Batch:
        """The batch with booleans for segments, unless its converter packs: kernels rely on it."""
        if getattr(self.converter, 'packs', False):
            return batch
        marks = {n: x > 0 for n, x in batch.items() if n.endswith('segment_ids')}
        return {**batch, **marks}

    def _head(self, model, name: str):
        return model.heads[name] if self.terms[name].head else None


def needs(*stacks: str, dropout: bool = False):
    """Marks a forward with the stacks it runs through ('encoder', 'decoder').

    `dropout` says that it makes no sense without: its views of a row differ in nothing else.
    """

    def mark(forward):
        forward.needs, forward.needs_dropout = stacks, dropout
        return forward

    return mark


def encode_side(model, batch: Batch, side: str, key=None, every_layer=False) -> Outputs:
    """One pass of one side's tokens through the encoder: `{side}_hidden` [B, L, D].

    With `every_layer` also `{side}_layers` [N, B, L, D], hidden states of all layers.
    """
    order = None
    if f'{side}_order' in batch:
        order = batch[f'{side}_order'], batch[f'{side}_reach']
    hidden = model.encode(
        batch[f'{side}_input_tokens'],
        segments=batch[f'{side}_segment_ids'],
        positions=batch[f'{side}_positions'],
        types=batch.get('token_type_ids'),
        order=order,
        key=key,
        every_layer=every_layer,
    )
    if every_layer:
        return {f'{side}_hidden': hidden[-1], f'{side}_layers': hidden}
    return {f'{side}_hidden': hidden}


@needs('encoder')
def encode(model, batch: Batch, key=None) -> Outputs:
    """One pass through the encoder: `encoder_hidden` [B, L, D]; who sees whom by order if given."""
    return encode_side(model, batch, 'encoder', key)


@needs('encoder')
def encode_layers(model, batch: Batch, key=None) -> Outputs:
    """`encode`, and `encoder_layers` [N, B, L, D]."""
    return encode_side(model, batch, 'encoder', key, every_layer=True)


@needs('encoder', dropout=True)
def encode_twice(model, batch: Batch, key=None) -> Outputs:
    """Two views of each row that differ in their dropout masks: `encoder_hidden` and `_2`.

    Rows are repeated next to each other, so that both views stay on the row's device, and go
    through the encoder as one batch of 2B whose dropout masks are drawn independently.
    """
    return _two_views(encode, model, batch, key)


@needs('encoder', dropout=True)
def encode_twice_layers(model, batch: Batch, key=None) -> Outputs:
    """`encode_twice`, and `encoder_layers` [N, B, L, D] and `_2`."""
    return _two_views(encode_layers, model, batch, key)


def _two_views(forward, model, batch: Batch, key) -> Outputs:
    twice = {name: jnp.repeat(x, 2, axis=0) for name, x in batch.items()}
    outputs = {}
    for name, x in forward(model, twice, key).items():
        outputs[name], outputs[f'{name}_2'] = neighbours(x, 2)
    return outputs


def neighbours(hidden, count: int) -> list[jax.Array]:
    """Hidden [..., count * B, L, D] of rows next to each other, as `count` of [..., B, L, D]."""
    *layers, _, L, D = hidden.shape
    views = hidden.reshape(*layers, -1, count, L, D)
    return [views[..., i, :, :] for i in range(count)]


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
