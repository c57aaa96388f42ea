"""gin files: read(files) evaluates bindings by gin's grammar and says where each value was set."""
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
from t5x_lite.experiment import Experiment
from t5x_lite.overrides import children, convert, declared, describe, dotted

REGISTRATION = '__gin__.dynamic_registration'
REQUIRED = 'gin.REQUIRED'


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


def read(
    files: Sequence[Path], bindings: Sequence[str], search: Sequence[Path]
) -> tuple[Experiment, dict[str, str]]:
    """The Experiment that the files bind, `bindings` on top, and the origins of its values.

    Raises:
      ConfigError: syntax, an unknown name or parameter, a missing or wrong value; with file:line.
    """
    book = _Book(search)
    for file in files:
        book.read_file(file)
    for binding in bindings:
        book.read_binding(binding)
    if not any(target is Experiment for _, target in book.bound):
        raise ConfigError(
            f'{shown(files[-1])}: binds no experiment.Experiment; start with '
            '`from t5x_lite import experiment` and bind experiment.Experiment.model and .streams'
        )
    builder = _Builder(book)
    try:
        experiment = builder.call(Experiment, '', '', shown(files[-1]))
    except RecursionError as error:
        raise ConfigError(f'{shown(files[-1])}: its bindings form a circle') from error
    for name, where in book.asked.items():
        if where not in builder.used:
            raise ConfigError(f'{where}: nothing is made from it; {nearest(name, book.keys())}')
    return experiment, builder.origins


class _Delegate(config_parser.ParserDelegate):
    def configurable_reference(self, scoped_configurable_name, evaluate):
        scope, _, name = scoped_configurable_name.rpartition('/')
        return Reference(scope, name, evaluate)

    def macro(self, macro_name):
        return Macro(macro_name)


class _Book:
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
        raise ConfigError(f'{where(error.lineno)}: {said} in: {(error.text or "").strip()}') from error
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
    known = _parameters(target)
    if name not in known:
        raise ConfigError(f'{where}: {target.__name__} has no {name!r}; {nearest(name, known)}')


def _parameters(target) -> dict[str, inspect.Parameter]:
    """Parameters by name; `**changes` stands for the fields of the dataclass that is returned."""
    signature = inspect.signature(target)
    out = dict(signature.parameters)
    rest = [name for name, p in out.items() if p.kind is p.VAR_KEYWORD]
    for name in rest:
        del out[name]
        if dataclasses.is_dataclass(signature.return_annotation):
            fields = inspect.signature(signature.return_annotation).parameters
            out |= {n: p.replace(default=None) for n, p in fields.items()}
    return out


class _Builder:
    """Calls what the bindings say, and notes where each value at each dotted path came from."""

    def __init__(self, book: _Book):
        self.book = book
        self.origins: dict[str, str] = {}
        self.used: set[str] = set()  # where each binding stands that a value was made from

    def call(self, target, scope: str, path: str, where: str):
        """The target's result, with the bindings of the scope and of those around it."""
        bound = self._bindings(target, scope)
        needed = [n for n, p in _parameters(target).items() if p.default is p.empty]
        missing = [n for n in needed if n not in bound]
        if missing:
            named = f'{scope}/{target.__name__}' if scope else target.__name__
            fix = f'bind {named}.{missing[0]}'
            raise ConfigError(f'{where}: {named} needs {", ".join(missing)}; {fix}')
        hints = declared(target)
        arguments = {}
        for name, (value, line) in bound.items():
            value = self.build(value, scope, dotted(path, name), line)
            try:
                arguments[name] = convert(value, hints.get(name, Any))
            except TypeError as error:
                rule = f'must be {describe(hints[name])}'
                raise ConfigError(f'{line}: {target.__name__}: {name}={value!r} {rule}') from error
        try:
            result = target(**arguments)
        except ConfigError as error:
            raise ConfigError(f'{_line_of(error, bound, where)}: {error}') from error
        if not inspect.isclass(target):
            self._trace(result, arguments, path)
        return result

    def build(self, value, scope: str, path: str, where: str):
        """A bound value with its references called and its macros filled in."""
        self.origins[path] = where
        self.used.add(where)
        if isinstance(value, Macro):
            if value.name not in self.book.macros:
                raise ConfigError(f'{where}: {self._unknown(value.name, path)}')
            meant = self.book.macros[value.name]
            return self.build(meant.value, scope, path, meant.where)
        if isinstance(value, Reference):
            inner = value.scope or scope
            if value.evaluate:
                return self.call(value.target, inner, path, where)
            if self._bindings(value.target, inner):
                name = value.target.__name__
                raise ConfigError(f'{where}: @{name} has bindings of its own; call it: @{name}()')
            return value.target
        if isinstance(value, dict):
            return {k: self.build(v, scope, f'{path}.{k}', where) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            items = (self.build(v, scope, f'{path}.{i}', where) for i, v in enumerate(value))
            return type(value)(items)
        return value

    def _bindings(self, target, scope: str) -> dict[str, Bound]:
        parts = scope.split('/') if scope else []
        scopes = ('/'.join(parts[:i]) for i in range(len(parts) + 1))
        return {n: b for s in scopes for n, b in self.book.bound.get((s, target), {}).items()}

    def _unknown(self, macro: str, path: str) -> str:
        if macro == REQUIRED:
            return f'{path} is required; give it a value in a later file or with --gin.NAME=value'
        return f'%{macro} is not defined; {nearest(macro, self.book.macros)}'

    def _trace(self, result, arguments: Mapping[str, Any], path: str) -> None:
        """What a factory was given is found again inside its result, under the same field name."""
        for inner, value in _leaves(result, path):
            name = inner.rpartition('.')[2]
            if name in arguments and arguments[name] == value:
                self.origins.setdefault(inner, self.origins[f'{path}.{name}'])


def _leaves(value, path: str):
    """(path, value) of everything inside dataclasses and mappings."""
    for name, (child, _) in children(value).items():
        yield dotted(path, name), child
        yield from _leaves(child, dotted(path, name))


def _line_of(error: ConfigError, bound: Mapping[str, Bound], where: str) -> str:
    """The line that binds what the message is about, or that of the call."""
    lines = [line for name, (_, line) in bound.items() if f' {name}=' in str(error)]
    return lines[0] if lines else where


def shown(file: Path) -> str:
    """A file's path as messages show it: relative to the current folder where it lies below."""
    file, here = file.resolve(), Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)
