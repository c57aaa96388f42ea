"""What all values for `Experiment.adapt` share: the key that they draw from, and the beginning."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from typing import Any, Protocol

import jax


class Adapt(Protocol):
    """What is added to a model to learn in its place: a frozen value (lora.py, prompt.py)."""

    def check(self, experiment) -> None:
        """ConfigError if it does not go with the experiment."""

    def check_init(self, init) -> None:
        """ConfigError if it does not go with where the weights come from."""

    def trainable(self, heads: Mapping[str, Any]):
        """What learns if the experiment does not say: pairs of selector.py."""

    def apply(self, model, key) -> None:
        """Puts its weights into a fresh model."""

    def begun(self, params: Mapping[str, Any], key) -> dict:
        """Parameters whose base was loaded, with what is made of the base made again."""

    def merged(self, params: Mapping[str, Any]) -> dict:
        """The parameters of the base model that does the same."""


def key(experiment):
    """The key of an experiment's adapters, another one than its model's."""
    return jax.random.fold_in(jax.random.key(experiment.seed), 1)


def begun(experiment, params: Mapping[str, Any], where) -> dict:
    """Loaded parameters, placed `where`, as the experiment's `adapt` begins with them."""
    if experiment.adapt is None:
        return params
    begin = lambda params: experiment.adapt.begun(params, key(experiment))
    return jax.jit(begin, out_shardings=where, donate_argnums=0)(params)
