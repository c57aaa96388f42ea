"""One language to choose parameters: (regular expression, value) pairs over their paths."""
# SPDX-License-Identifier: Apache-2.0

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from t5x_lite.errors import ConfigError, nearest
from t5x_lite.schedules import is_number

STACK = 'blocks'  # below this key each array is [layers, ...]
Rules = Sequence[tuple[str, Any]]  # the first pattern that is found in a path gives its value
Choice = Mapping[str, Any]  # {array: its value}; where layers differ, a tuple of theirs


def resolved(rules: Rules | Callable, model) -> Rules:
    """The rules themselves, or what a function of the ModelConfig makes of the model."""
    return rules(model) if callable(rules) else rules


def check_trainable(owner: str, rules) -> None:
    """ConfigError unless the values are True, False, or a step of 1 or more."""
    holds = lambda value: isinstance(value, bool) or (type(value) is int and value >= 1)
    check(owner, rules, holds, 'True, False, or the step from which it learns')


def check_factors(owner: str, rules) -> None:
    """ConfigError unless the values are factors of 0 or more."""
    check(owner, rules, is_number, 'a factor of 0 or more')


def check(owner: str, rules, holds: Callable[[Any], bool], rule: str) -> None:
    """ConfigError unless rules are pairs of a regular expression and such a value.

    A function of the model and None are taken as they are.
    """
    if rules is None or (callable(rules) and not isinstance(rules, type)):
        return
    fix = f"give (('pattern', value), ...) with {rule}"
    if not isinstance(rules, tuple | list):
        raise ConfigError(f'{owner}={rules!r} must be pairs of a pattern and a value; {fix}')
    for pair in rules:
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise ConfigError(f'{owner}: {pair!r} must be a pattern and a value; {fix}')
        try:
            re.compile(pair[0])
        except re.error as error:
            message = f'{owner}: {pair[0]!r} is no regular expression: {error}; escape what is text'
            raise ConfigError(message) from error
        if not holds(pair[1]):
            raise ConfigError(f'{owner}: {pair[0]!r} has the value {pair[1]!r}; {fix}')


def first(rules: Rules, path: str, default=None):
    """The value of the first pattern that is found in the path."""
    return next((value for pattern, value in rules if re.search(pattern, path)), default)


def layers(path: str, shape: Sequence[int]) -> list[str]:
    """The paths of an array: its own, or for a stack one of each layer, as `blocks/3/mlp`."""
    keys = path.split('/')
    if STACK not in keys:
        return [path]
    at = keys.index(STACK) + 1
    return ['/'.join([*keys[:at], str(i), *keys[at:]]) for i in range(shape[0])]


def choose(rules: Rules, shapes: Mapping[str, Sequence[int]], owner: str) -> dict[str, Any]:
    """The value of every array {path: shape}; a tuple where the layers of a stack differ.

    Raises:
      ConfigError: a pattern that is found in no path; a path in which none is found.
    """
    paths = {path: layers(path, shape) for path, shape in shapes.items()}
    every = [layer for inside in paths.values() for layer in inside]
    for pattern, _ in rules:
        if not any(re.search(pattern, layer) for layer in every):
            raise ConfigError(
                f'{owner}: {pattern!r} is found in no parameter; {near(pattern, every)}'
            )
    missing = object()
    chosen = {path: [first(rules, x, missing) for x in inside] for path, inside in paths.items()}
    for path, values in chosen.items():
        if missing in values:
            left = paths[path][values.index(missing)]
            raise ConfigError(
                f'{owner}: no pattern is found in {left}; end with a pair for the rest, '
                f"('.*', {rules[-1][1] if rules else True!r})"
            )
    return {path: together(values) for path, values in chosen.items()}


def together(values: Iterable) -> Any:
    """The value that all layers have, or a tuple of each one's."""
    values = tuple(values)
    return values[0] if len(set(values)) == 1 else values


def each(value, count: int) -> tuple:
    """The values of an array's `count` layers."""
    return value if isinstance(value, tuple) else (value,) * count


def near(pattern: str, paths: Sequence[str]) -> str:
    """The paths nearest to what a pattern seems to mean."""
    text = re.sub(r'\\[A-Za-z]|[\\^$()|?*+\[\]]', '', pattern)
    ends = [p for p in paths if text and text.split('/')[-1] in p]
    return nearest(text, ends or paths)
