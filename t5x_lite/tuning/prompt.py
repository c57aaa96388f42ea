"""Prompt tuning, a value for `Experiment.adapt`: learned vectors before a frozen model's text."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from t5x_lite import selector
from t5x_lite.errors import ConfigError
from t5x_lite.schedules import is_number, require

# JAX is imported where vectors are made: reading a config stays fast.


@dataclass(frozen=True)
class Uniform:
    """Vectors U(-limit, limit) (Lester et al. 2021)."""

    limit: float = 0.5

    def __post_init__(self):
        require(self, 'limit', is_number(self.limit), 'a number of 0 or more', 0.5)

    def vectors(self, table_VxD, length: int, key):
        import jax

        shape, limit = (length, table_VxD.shape[-1]), self.limit
        return jax.random.uniform(key, shape, minval=-limit, maxval=limit)


@dataclass(frozen=True)
class Frequent:
    """Embeddings of different ids below `ids`, drawn: vocabularies begin with what is frequent."""

    ids: int = 5000

    def __post_init__(self):
        holds = type(self.ids) is int and self.ids >= 1
        require(self, 'ids', holds, 'an integer of 1 or more', 5000)

    def vectors(self, table_VxD, length: int, key):
        import jax

        ids = min(self.ids, table_VxD.shape[0])
        rows = jax.random.choice(key, ids, (length,), replace=length > ids)
        return table_VxD[rows]


@dataclass(frozen=True)
class Labels:
    """The mean embedding of each label's token ids, ((37, 5), (811,)); the rest as `Frequent`.

    `Labels.of(('yes', 'no'), vocabulary)` takes the ids from a vocabulary's `encode`.
    """

    ids: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, texts: Iterable[str], vocabulary) -> 'Labels':
        return cls(tuple(tuple(map(int, vocabulary.encode(text))) for text in texts))

    def __post_init__(self):
        object.__setattr__(self, 'ids', tuple(map(tuple, self.ids)))
        known = self.ids and all(
            label and all(type(i) is int and i >= 0 for i in label) for label in self.ids
        )
        require(self, 'ids', bool(known), 'token ids of one label or more', ((37, 5), (811,)))

    def vectors(self, table_VxD, length: int, key):
        import jax.numpy as jnp

        known = table_VxD.shape[0]
        if len(self.ids) > length or max(map(max, self.ids)) >= known:
            raise ConfigError(
                f'Labels: {len(self.ids)} labels of ids up to {max(map(max, self.ids))} must be at '
                f'most the length={length} of the prompt, of ids below the vocabulary of {known}'
            )
        means = [table_VxD[jnp.array(label)].mean(0) for label in self.ids]
        drawn_PxD = Frequent().vectors(table_VxD, length, key)
        return jnp.concatenate([jnp.stack(means), drawn_PxD])[:length]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """`length` learned vectors in front of the encoder's tokens, or of a decoder-only model's.

    All else is frozen; with `heads` the model's heads learn too. Lester et al. 2021: 100 vectors,
    Adafactor(learning_rate=0.3, scale_by_param=False), batch 32, 30,000 steps.
    """

    length: int = 100
    init: Any = Frequent()
    heads: bool = False

    def __post_init__(self):
        holds = type(self.length) is int and self.length >= 1
        require(self, 'length', holds, 'an integer of 1 or more', 100)

    def check(self, experiment) -> None:
        """ConfigError for rows that a prompt cannot stand in front of."""
        model, side = experiment.model, experiment.model.stacks[0]
        for name, stream in experiment.streams.items():
            rule = None
            if getattr(stream.objective.converter, 'packs', False):
                rule = 'its rows hold several examples, of which one would see it; do not pack'
            elif 'encoder_order' in stream.spec():
                rule = 'its rows have an order of their own; use another objective'
            elif set(model.stacks) - set(stream.objective.forward.needs):
                rule = 'it does not run through the decoder; use a model without one'
            if rule:
                raise ConfigError(f"Prompt: stream '{name}': {rule}")
            (_, longest), _ = stream.spec()[f'{side}_input_tokens']
            most = model.positions.max_length
            if most is not None and self.length + longest > most:
                raise ConfigError(
                    f"Prompt: length={self.length} with the {longest} tokens of stream '{name}' "
                    f'must be at most the {most} that model.positions knows; try '
                    f'length={max(1, most - longest)} or shorter rows'
                )

    def check_init(self, init) -> None:
        """A model may come from anywhere."""

    def trainable(self, heads: Mapping[str, Any]) -> selector.Rules:
        """The prompt, and heads if it says so."""
        pattern = '^(prompt|heads)/' if self.heads else '^prompt/'
        return ((pattern, True), ('.*', False))

    def apply(self, model, key) -> None:
        """Puts the prompt into a model."""
        from flax import nnx

        from t5x_lite.model.adapters import PromptVectors

        table_VxD = model.token_embedding.embedding[...]
        model.prompt = nnx.data(PromptVectors(self.init.vectors(table_VxD, self.length, key)))

    def begun(self, params: Mapping[str, Any], key) -> dict:
        """The parameters, whose prompt is made anew of their own token embeddings."""
        table_VxD = params['token_embedding']['embedding']
        return {**params, 'prompt': {'embedding': self.init.vectors(table_VxD, self.length, key)}}

    def merged(self, params: Mapping[str, Any]) -> dict:
        """Nothing holds a prompt but the model itself."""
        raise ConfigError('ckpt: a prompt cannot be merged into a model, so that no export has it')
