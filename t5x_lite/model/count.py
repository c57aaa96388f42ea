"""Parameter counts of an architecture: what is published, and what padding the tables adds."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from typing import NamedTuple

from t5x_lite.model.config import ModelConfig


class Counts(NamedTuple):
    """Numbers of parameters.

    `total` has a row for each of `config.vocab` ids; `padding` is what the rows up to `config.rows`
    add; `tables` is the part of `total` that is token embeddings, the output's if it is not tied.
    """

    total: int
    padding: int
    tables: int


def count(config: ModelConfig, heads: Mapping | None = None) -> Counts:
    """Counts of a model and its heads, from shapes alone: no memory is used."""
    import jax
    from flax import nnx

    from t5x_lite.model import transformer

    state = nnx.state(jax.eval_shape(lambda: transformer.build(config, heads)))
    whole = sum(x.size for x in jax.tree.leaves(state))
    tables = config.vocab * config.table + (0 if config.tied else config.vocab * config.embed)
    row = config.table + (0 if config.tied else config.embed)
    row += sum(_has_output_bias(head) for head in (heads or {}).values())
    padding = (config.rows - config.vocab) * row
    return Counts(whole - padding - _unused(config), padding, tables)


def _has_output_bias(head) -> bool:
    from t5x_lite.model.heads import Generator, MaskedLMHead

    return isinstance(head, MaskedLMHead | Generator)


def _unused(config: ModelConfig) -> int:
    """Layers are stacked, so that layer 0 has a norm that it does not use (`first_norm=False`)."""
    stacks = 0 if config.first_norm else len(config.stacks)
    return stacks * config.embed * len(config.norm.weights)
