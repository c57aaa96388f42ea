"""What a kind of inference is: a value with its settings that prepares examples and runs them."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from t5x_lite.errors import ConfigError


class Verb(Protocol):
    """Generate, Score, Classify, Fill, Embed; another one is a file beside them."""

    def check(self, opened) -> None:
        """ConfigError if the run cannot do this, whatever the example."""

    def prepare(self, opened, example: str | Mapping[str, Any]) -> Any:
        """What `run` needs of an example; ConfigError if the example cannot be used."""

    def run(self, opened, prepared: Sequence[Any], numbers: Sequence[int]) -> list[dict]:
        """A dict, as JSON can hold it, for each example; `numbers` tell them apart in draws."""


def run_all(verb: Verb, opened, examples: Sequence) -> list[dict]:
    """The verb on examples that are all there.

    Raises:
      ConfigError: what the run cannot do; an example that cannot be used, named by its number.
    """
    if isinstance(examples, str | Mapping):
        raise ConfigError(f'examples must be a list, even of one: [{examples!r:.60}]')
    verb.check(opened)
    prepared = []
    for number, example in enumerate(examples):
        try:
            prepared.append(verb.prepare(opened, example))
        except ConfigError as error:
            raise ConfigError(f'example {number}: {error}') from error
    return verb.run(opened, prepared, range(len(prepared))) if prepared else []


def text_of(example: str | Mapping[str, Any]) -> str:
    """The text of an example: itself, its `text` or its `inputs`."""
    if isinstance(example, str):
        return example
    for name in ('text', 'inputs'):
        if isinstance(example, Mapping) and name in example:
            return string(example, name)
    raise ConfigError(f"must be a string, or have 'text' or 'inputs': {example!r:.80}")


def string(example: Mapping[str, Any], name: str) -> str:
    """A field that must be text."""
    if not isinstance(example[name], str):
        raise ConfigError(f"'{name}' must be a string, not {example[name]!r:.60}")
    return example[name]
