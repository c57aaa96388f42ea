"""Experiments as text: source that makes one again, where its values were set, what differs."""
# SPDX-License-Identifier: Apache-2.0

import ast
import dataclasses
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from t5x_lite.errors import ConfigError
from t5x_lite.overrides import children, dotted

WIDTH = 100
ARGUMENTS = 3  # of a call on one line
COMMENT_COLUMN = 64  # comments start here at the latest, unless their line is longer
MAY_CHANGE = (
    *('steps', 'log_every', 'evals', 'checkpoint', 'mesh', 'rules', 'microbatches'),
    *('model.attention', 'model.remat', 'model.unroll'),
)
"""Between restarts of one run: what changes no number of a step but by rounding."""
HEADER = '"""One run with every value written out: read it, run it again, compare it."""'


class Line(NamedTuple):
    """A line of source; `path` of the value it shows, `whole` if it shows all of it."""

    text: str
    path: str | None = None
    whole: bool = False


def source(value, variable: str = 'experiment') -> str:
    """Python source that defines an equal `variable` when it is run, all fields written out.

    Raises:
      ConfigError: a value that no source can name, such as a lambda; names its field.
    """
    return _join(*_print(value, variable))


def assignment(value, variable: str) -> str:
    """`source` without its imports: to be read, not run."""
    return '\n'.join(line.text for line in _print(value, variable)[1])


def explain(loaded) -> str:
    """The source of a `config.Loaded`, and on each line where its value was set."""
    imports, lines = _print(loaded.experiment)
    found = dict(_origins(loaded.experiment, '', loaded.origins, False, ''))
    comments = [', '.join(_told(line, found, loaded.origins)) for line in lines]
    lengths = [len(line.text) for line, comment in zip(lines, comments, strict=True) if comment]
    column = min(max(lengths, default=0), COMMENT_COLUMN)
    return _join(
        imports,
        [
            Line(f'{line.text:<{column}}  # {comment}' if comment else line.text)
            for line, comment in zip(lines, comments, strict=True)
        ],
    )


def difference(old: str, new: str) -> list[str]:
    """`model.dropout: 0.0 -> 0.1` for all that differs between two sources.

    What a run may change between restarts (MAY_CHANGE) is left out.
    """
    lines = _differences(_assigned(old), _assigned(new), '')
    free = tuple(f'{name}.' for name in MAY_CHANGE)
    return [line for line in lines if not f'{line.split(":")[0]}.'.startswith(free)]


class _Names:
    """The names that a source imports, two different things of one name told apart."""

    def __init__(self, variable: str):
        self.known: dict[str, Any] = {variable: None}  # printed name -> what it stands for
        self.imports: dict[str, set[str]] = defaultdict(set)  # module -> 'name' or 'name as other'

    def name(self, thing, path: str) -> str:
        """How the source calls a class or function; ConfigError if it cannot be imported."""
        module, name = getattr(thing, '__module__', None), getattr(thing, '__qualname__', '')
        home = sys.modules.get(module) if module != '__main__' else None
        if getattr(home, name, None) is not thing:
            raise ConfigError(
                f'{path}={thing!r} has no name that a saved experiment could import; '
                f'move it to the top level of a module of its own'
            )
        printed, count = name, 2
        while self.known.setdefault(printed, thing) is not thing:
            printed, count = f'{name}_{count}', count + 1
        self.imports[module].add(name if printed == name else f'{name} as {printed}')
        return printed

    def lines(self) -> Iterator[str]:
        for module in sorted(self.imports):
            names = sorted(self.imports[module])
            line = f'from {module} import {", ".join(names)}'
            if len(line) <= WIDTH:
                yield line
            else:
                yield f'from {module} import (\n' + ''.join(f'    {n},\n' for n in names) + ')'


def _print(value, variable: str = 'experiment') -> tuple[list[Line], list[Line]]:
    names = _Names(variable)
    lines = _lines(f'{variable} = ', value, '', 0, '', names)
    return [Line(text) for text in names.lines()], lines


def _join(imports: list[Line], lines: list[Line]) -> str:
    blocks = ([Line(HEADER)], imports, lines)
    return '\n\n'.join('\n'.join(line.text for line in block) for block in blocks if block) + '\n'


def _lines(prefix: str, value, path: str, depth: int, suffix: str, names: _Names) -> list[Line]:
    """A value on one line if it is short, else one argument per line."""
    indent = '    ' * depth
    one = f'{indent}{prefix}{_text(value, path, names)}{suffix}'
    parts = _parts(value, path, names)
    few = parts is None or len(parts[1]) <= ARGUMENTS
    if parts is None or not parts[1] or (few and len(one) <= WIDTH):
        return [Line(one, path, True)]
    start, items, end = parts
    inner = [_lines(p, child, at, depth + 1, ',', names) for p, child, at in items]
    return [
        Line(f'{indent}{prefix}{start}', path),
        *(line for lines in inner for line in lines),
        Line(f'{indent}{end}{suffix}'),
    ]


def _text(value, path: str, names: _Names) -> str:
    parts = _parts(value, path, names)
    if parts is None:
        return _atom(value, path, names)
    start, items, end = parts
    comma = ',' if start == '(' and len(items) == 1 else ''
    return start + ', '.join(p + _text(child, at, names) for p, child, at in items) + comma + end


def _parts(value, path: str, names: _Names):
    """(start, [(prefix, child, its path)], end) of what holds values, None of what does not."""
    children = _children(value, path)
    if children is None:
        return None
    if isinstance(value, Mapping):
        return '{', [(f'{key!r}: ', child, at) for key, child, at in children], '}'
    if isinstance(value, (list, tuple)):
        start, end = '[]' if isinstance(value, list) else '()'
        return start, [('', child, at) for _, child, at in children], end
    named = [(f'{name}=', child, at) for name, child, at in children]
    return f'{names.name(type(value), path)}(', named, ')'


def _children(value, path: str):
    """[(name, child, its path)] of a dataclass, mapping, list or tuple; None of anything else."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = [(n, _as_declared(child, hint)) for n, (child, hint) in children(value).items()]
    elif isinstance(value, Mapping):
        pairs = list(value.items())
    elif type(value) in (list, tuple):
        pairs = list(enumerate(value))
    else:
        return None
    return [(name, child, dotted(path, name)) for name, child in pairs]


def _as_declared(value, hint):
    """5 as 5.0 where a float is declared: equal experiments print alike."""
    kinds = getattr(hint, '__args__', (hint,))
    return float(value) if type(value) is int and float in kinds and int not in kinds else value


def _atom(value, path: str, names: _Names) -> str:
    if type(value) is float and not math.isfinite(value):
        return f"float('{value}')"
    if value is None or type(value) in (bool, int, float, str, bytes):
        return repr(value)
    return names.name(value, path)


def _origins(value, path: str, origins, default: bool, above: str) -> Iterator[tuple[str, str]]:
    """(path, origin) of a value and all inside it: set there, default, or set with its holder."""
    here = origins.get(path) or ('default' if default else above)
    yield path, here
    standard = _defaults(value)
    for name, child, at in _children(value, path) or ():
        same = name in standard and standard[name] == child
        inherited = default and not standard and path not in origins
        yield from _origins(child, at, origins, same or inherited, _not_default(here, above))


def _not_default(origin: str, above: str) -> str:
    return above if origin == 'default' else origin


def _defaults(value) -> dict[str, Any]:
    """{field: default} of a dataclass value."""
    out = {}
    for field in dataclasses.fields(value) if dataclasses.is_dataclass(value) else ():
        if field.default is not dataclasses.MISSING:
            out[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            out[field.name] = field.default_factory()
    return out


def _told(line: Line, found: Mapping[str, str], origins: Mapping[str, str]) -> list[str]:
    """The origins to write on a line: of the value itself, and of what was set inside it."""
    if line.path in (None, ''):
        return []
    if not line.whole:
        return [origins[line.path]] if line.path in origins else []
    inside = [o for path, o in found.items() if path.startswith(f'{line.path}.')]
    told = dict.fromkeys(o for o in inside if o != 'default')
    if line.path in origins or not told:
        told = {found[line.path]: None} | told
    return list(told)


def _assigned(text: str) -> ast.expr:
    """The expression that a source assigns to `experiment`."""
    try:
        body = ast.parse(text).body
    except SyntaxError as error:
        raise ConfigError(f'experiment.py:{error.lineno}: {error.msg}') from error
    for statement in body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == 'experiment':
            return statement.value
    raise ConfigError('experiment.py: defines no `experiment`')


def _differences(old: ast.expr | None, new: ast.expr | None, path: str) -> Iterator[str]:
    before, after = _arguments(old), _arguments(new)
    if before is not None and after is not None and before[0] == after[0]:
        for name in dict.fromkeys([*before[1], *after[1]]):
            inner = before[1].get(name), after[1].get(name)
            yield from _differences(*inner, dotted(path, name))
    elif _short(old) != _short(new) or (old and new and ast.dump(old) != ast.dump(new)):
        yield f'{path}: {_short(old)} -> {_short(new)}'


def _arguments(node: ast.expr | None) -> tuple[str, dict[str, ast.expr]] | None:
    """A call's function and keywords, or a dict's items."""
    if isinstance(node, ast.Call):
        return ast.unparse(node.func), {k.arg: k.value for k in node.keywords if k.arg}
    if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
        items = zip(node.keys, node.values, strict=True)
        return '{}', {str(key.value): value for key, value in items}
    return None


def _short(node: ast.expr | None) -> str:
    text = '(absent)' if node is None else ast.unparse(node)
    return text if len(text) <= 40 else f'{text[:37]}...'
