"""gin files: read(files) makes the Experiment that they bind and says where each value was set."""
# SPDX-License-Identifier: Apache-2.0

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t5x_lite.errors import ConfigError, nearest
from t5x_lite.experiment import Experiment
from t5x_lite.gin_parser import Book, Bound, Macro, Reference, parameters, shown
from t5x_lite.overrides import children, convert, declared, describe, dotted

REQUIRED = 'gin.REQUIRED'


def read(
    files: Sequence[Path], bindings: Sequence[str], search: Sequence[Path]
) -> tuple[Experiment, dict[str, str]]:
    """The Experiment that the files bind, `bindings` on top, and the origins of its values.

    Raises:
      ConfigError: syntax, an unknown name or parameter, a missing or wrong value; with file:line.
    """
    book = Book(search)
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


class _Builder:
    """Calls what the bindings say, and notes where each value at each dotted path came from."""

    def __init__(self, book: Book):
        self.book = book
        self.origins: dict[str, str] = {}
        self.used: set[str] = set()  # where each binding stands that a value was made from

    def call(self, target, scope: str, path: str, where: str):
        """The target's result, with the bindings of the scope and of those around it."""
        bound = self._bindings(target, scope)
        needed = [n for n, p in parameters(target).items() if p.default is p.empty]
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
        except Exception as error:
            said = f'{target.__name__}: {type(error).__name__}: {error}'
            raise ConfigError(f'{where}: {said}') from error
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
