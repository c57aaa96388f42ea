"""Overrides: `model.dropout=0.1` applied to an experiment, checked against each field's type."""
# SPDX-License-Identifier: Apache-2.0

import ast
import collections.abc
import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from t5x_lite.errors import ConfigError, nearest

_WORDS = {
    int: 'an integer',
    float: 'a number',
    str: 'text',
    bool: 'True or False',
    types.NoneType: 'None',
    collections.abc.Callable: 'a function',
    tuple: 'a tuple',
    Mapping: 'a mapping',
}


class Setting(NamedTuple):
    """One override, `path=text`."""

    path: str
    text: str

    def __str__(self):
        return f'--set {self.path}={self.text}'


def override(experiment, settings: Sequence[str]):
    """The experiment with every `a.b.c=value` applied at once, and the dotted paths set.

    A path goes through fields and the keys of mappings. A value is a Python literal or plain text
    and must fit the field's type. All settings of one value are applied together, so that
    `model.embed` and `model.heads` need not be right one after the other; the value then checks
    itself as at its construction.

    Raises:
      ConfigError: no `=`, a name that is not there, a value of another type, a refused experiment.
    """
    parsed = [_parse(text) for text in settings]
    tree: dict = {}
    for setting in parsed:
        *parents, last = setting.path.split('.')
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
            if isinstance(node, Setting):
                raise ConfigError(f'{setting}: {node} sets all of it; leave one of them out')
        if isinstance(node.get(last), dict):
            raise ConfigError(f'{setting}: a part of it is set too; leave one of them out')
        node[last] = setting
    return _rebuild(experiment, type(experiment), tree, ''), [s.path for s in parsed]


def _parse(text: str) -> Setting:
    path, equals, value = text.partition('=')
    path = path.strip()
    if not equals or not all(part for part in path.split('.')):
        raise ConfigError(f'--set {text}: must read path=value, such as --set model.dropout=0.1')
    return Setting(path, value.strip())


def _rebuild(old, hint, change: dict | Setting, path: str):
    if isinstance(change, Setting):
        return _read(change, old, hint)
    known = children(old, hint)
    new = {}
    for name, inner in change.items():
        if name not in known:
            names = nearest(name, known) if known else f'it is {old!r}'
            where = path or type(old).__name__
            raise ConfigError(f'{_first(inner)}: {where} has no {name!r}; {names}')
        new[name] = _rebuild(*known[name], inner, dotted(path, name))
    if isinstance(old, Mapping):
        return {**old, **new}
    try:
        return dataclasses.replace(old, **new)
    except ConfigError as error:
        told = '' if '--set ' in str(error) else f' (after {_first(change)})'
        raise ConfigError(f'{error}{told}') from error


def _first(change: dict | Setting) -> Setting:
    while isinstance(change, dict):
        change = next(iter(change.values()))
    return change


def dotted(path: str, name) -> str:
    """The path of what is under `name` at `path`."""
    return f'{path}.{name}' if path else str(name)


def children(value, hint=Any) -> dict[str, tuple[Any, Any]]:
    """{name: (value, declared type)} of a dataclass's fields or a mapping's items."""
    if isinstance(value, Mapping):
        args = typing.get_args(hint)
        return {key: (child, args[1] if len(args) == 2 else Any) for key, child in value.items()}
    if dataclasses.is_dataclass(value):
        hints = declared(type(value))
        return {name: (getattr(value, name), hint) for name, hint in hints.items()}
    return {}


def _read(setting: Setting, old, hint):
    """The setting's text as a value of the field's declared type (of the old value's, if Any)."""
    try:
        value = ast.literal_eval(setting.text)
    except (ValueError, SyntaxError):
        value = setting.text
    if hint is Any or getattr(hint, '_is_protocol', False):
        known = dataclasses.is_dataclass(old) or type(old) in (bool, int, float)
        hint = type(old) if known else Any
    for candidate in (value, setting.text):
        try:
            return convert(candidate, hint)
        except TypeError:
            continue
    raise ConfigError(f'{setting}: must be {describe(hint)}{_fix(value, old, setting)}')


def _fix(value, old, setting: Setting) -> str:
    if dataclasses.is_dataclass(old):
        inner = dataclasses.fields(old)
        example = f'{setting.path}.{inner[0].name}=..., or ' if inner else ''
        return f'; set {example}choose another in the config file'
    if callable(old):
        return '; choose another in the config file'
    if type(value) is float and value.is_integer():
        return f'; try {setting.path}={int(value)}'
    return f'; try {setting.path}={old!r}'


def declared(target) -> dict[str, Any]:
    """Declared types of a dataclass's fields or a function's parameters; Any for a string."""
    if dataclasses.is_dataclass(target):
        kinds = {field.name: field.type for field in dataclasses.fields(target)}
    else:
        kinds = inspect.get_annotations(target) if inspect.isfunction(target) else {}
    return {name: Any if isinstance(hint, str) else hint for name, hint in kinds.items()}


def convert(value, hint):
    """The value as its declared type has it (5 as 5.0 for a float); TypeError if it cannot be."""
    kind, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is Any or getattr(kind, '_is_protocol', False):
        return value
    if kind in (typing.Union, types.UnionType):
        return _convert_union(value, args)
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    if kind is tuple and isinstance(value, (list, tuple)):
        return tuple(convert(item, args[0] if args else Any) for item in value)
    if kind is Mapping and isinstance(value, Mapping):
        wanted = args or (Any, Any)
        return {convert(k, wanted[0]): convert(v, wanted[1]) for k, v in value.items()}
    plain = (int, float, str, bool, tuple, Mapping)
    if isinstance(kind, type) and kind not in plain and isinstance(value, kind):
        return value
    raise TypeError(f'{value!r} is not {describe(hint)}')


def _convert_union(value, hints):
    for hint in hints:
        try:
            return convert(value, hint)
        except TypeError:
            continue
    raise TypeError(f'{value!r} fits none of them')


def describe(hint) -> str:
    """A declared type in words, `an integer or None`."""
    kind = typing.get_origin(hint) or hint
    if kind in (typing.Union, types.UnionType):
        return ' or '.join(describe(arg) for arg in typing.get_args(hint))
    return _WORDS.get(kind) or f'a value of type {getattr(kind, "__name__", kind)}'
