"""gin's grammar: what .gin files and the command line bind, names resolved, places noted."""
# SPDX-License-Identifier: Apache-2.0

# gin's own parser, but not its registry: constructors are called as Python calls them, without
# wrappers around them, so that values equal those of a Python file; nothing global is left behind.

import dataclasses
import importlib
import inspect
import re
import tokenize
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gin import config_parser

from t5x_lite.errors import ConfigError, nearest

REGISTRATION = '__gin__.dynamic_registration'


class Reference(NamedTuple):
    """`@scope/name` or `@scope/name()`."""

    scope: str
    target: Any  # a name while the file is parsed, then the class or function itself
    evaluate: bool


class Macro(NamedTuple):
    """`%NAME`."""

    name: str


class Bound(NamedTuple):
    """A value as the file has it, and where: `configs/runs/a.gin:12`."""

    value: Any
    where: str


class _Delegate(config_parser.ParserDelegate):
    def configurable_reference(self, scoped_configurable_name, evaluate):
        scope, _, name = scoped_configurable_name.rpartition('/')
        return Reference(scope, name, evaluate)

    def macro(self, macro_name):
        return Macro(macro_name)


class Book:
    """Everything that the files bind; a later binding replaces an earlier one."""

    def __init__(self, search: Sequence[Path]):
        self.bound: dict[tuple[str, Any], dict[str, Bound]] = {}  # by (scope, class or function)
        self.macros: dict[str, Bound] = {}
        self.names: dict[str, Any] = {}  # what all files imported, for the command line
        self.asked: dict[str, str] = {}  # what the command line binds, and how it says so
        self.search = search
        self.open: list[Path] = []  # files being read, each included by the one before

    def read_file(self, file: Path) -> None:
        if file in self.open:
            raise ConfigError(f'{shown(file)}: includes itself by way of {shown(self.open[-1])}')
        try:
            text = file.read_text(encoding='utf-8')
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f'{shown(file)}: cannot be read: {error}') from error
        self.open.append(file)
        names: dict[str, Any] = {}
        for statement, where in _statements(text, lambda line: f'{shown(file)}:{line}'):
            self._take(statement, where, names)
        self.names |= names
        self.open.pop()

    def read_binding(self, binding: str) -> None:
        """One of the command line; its names are those that the files import, or bind."""
        key = binding.partition('=')[0].strip()
        where = self.asked[key] = f'--gin.{key}'
        names = {target.__name__: target for _, target in self.bound} | self.names
        for statement, _ in _statements(binding, lambda line: f'--gin.{binding}'):
            self._take(statement, where, names)

    def keys(self) -> set[str]:
        """What the files bind, as the command line may write it; macros too."""
        names = (((scope, t.__name__), values) for (scope, t), values in self.bound.items())
        keys = {f'{"/".join(filter(None, n))}.{v}' for n, values in names for v in values}
        return (keys | set(self.macros)) - set(self.asked)

    def _take(self, statement, where: str, names: dict[str, Any]) -> None:
        if isinstance(statement, config_parser.ImportStatement):
            self._import(statement, where, names)
        elif isinstance(statement, config_parser.IncludeStatement):
            self.read_file(self._find(statement.filename, where))
        elif isinstance(statement, config_parser.BindingStatement):
            value = _resolve_all(statement.value, names, where)
            scope, name = statement.scope, statement.selector
            if not statement.arg_name:
                self.macros[f'{scope}/{name}' if scope else name] = Bound(value, where)
                return
            target = _resolve(name, names, where)
            _check_parameter(target, statement.arg_name, where)
            self.bound.setdefault((scope, target), {})[statement.arg_name] = Bound(value, where)

    def _import(self, statement, where: str, names: dict[str, Any]) -> None:
        if statement.module == REGISTRATION:
            names['gin'] = None
            return
        if 'gin' not in names:
            raise ConfigError(f'{where}: write `from __gin__ import dynamic_registration` first')
        try:
            module = importlib.import_module(statement.module)
        except ImportError as error:
            raise ConfigError(f'{where}: cannot import {statement.module}: {error}') from error
        if not statement.is_from and not statement.alias:
            module = importlib.import_module(statement.module.partition('.')[0])
        names[statement.bound_name()] = module

    def _find(self, name: str, where: str) -> Path:
        here = self.open[-1].resolve().parent if self.open else Path.cwd()
        folders = [here, *(p for p in here.parents if p.name == 'configs'), *self.search]
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
        known = [str(p.relative_to(f)) for f in folders for p in f.glob('*/*.gin')]
        raise ConfigError(f'{where}: there is no file {name!r}; {nearest(name, set(known))}')


def _statements(text: str, where: Callable[[int], str]):
    """gin's parser over a text: (statement, where) pairs; ConfigError for what it cannot parse."""
    try:
        for statement in config_parser.ConfigParser(text, _Delegate()):
            yield statement, where(statement.location.line_num)
    except SyntaxError as error:
        token = re.search(r"Failed to parse token ('.*')", error.msg)
        said = f'{token[1]} is no value; put text in quotes' if token else error.msg
        line = (error.text or '').strip()
        raise ConfigError(f'{where(error.lineno)}: {said} in: {line}') from error
    except tokenize.TokenError as error:
        raise ConfigError(f'{where(error.args[1][0])}: {error.args[0]}') from error


def _resolve_all(value, names: Mapping[str, Any], where: str):
    """The value with every name in its references looked up."""
    if isinstance(value, Reference):
        return value._replace(target=_resolve(value.target, names, where))
    if isinstance(value, Macro):
        return value
    if isinstance(value, dict):
        return {k: _resolve_all(v, names, where) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_resolve_all(v, names, where) for v in value)
    return value


def _resolve(name: str, names: Mapping[str, Any], where: str):
    """The class or function `module.name`, its first part one that the file imports."""
    first, *rest = name.split('.')
    if names.get(first) is None:
        known = [n for n, thing in names.items() if thing is not None]
        raise ConfigError(f'{where}: {first!r} is not imported here; {nearest(first, known)}')
    thing = names[first]
    for part in rest:
        if not hasattr(thing, part):
            known = [n for n, x in vars(thing).items() if callable(x) and n[0] != '_']
            raise ConfigError(f'{where}: {thing.__name__} has no {part!r}; {nearest(part, known)}')
        thing = getattr(thing, part)
    if not callable(thing):
        raise ConfigError(f'{where}: {name} is {type(thing).__name__}, not a class or function')
    return thing


def _check_parameter(target, name: str, where: str) -> None:
    known = parameters(target)
    if name not in known:
        raise ConfigError(f'{where}: {target.__name__} has no {name!r}; {nearest(name, known)}')


def parameters(target) -> dict[str, inspect.Parameter]:
    """Parameters by name; `**changes` stands for the fields of the dataclass that is returned."""
    signature = inspect.signature(target)
    result, out = signature.return_annotation, dict(signature.parameters)
    for name, parameter in signature.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            del out[name]
        if parameter.kind is parameter.VAR_KEYWORD and dataclasses.is_dataclass(result):
            fields = inspect.signature(result).parameters
            out |= {n: p.replace(default=None) for n, p in fields.items()}
    return out


def shown(file: Path) -> str:
    """A file's path as messages show it: relative to the current folder where it lies below."""
    file, here = file.resolve(), Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)
