"""Files that an evaluator reads: numbered lines, and all that is wrong in one message."""
# SPDX-License-Identifier: Apache-2.0

import json
from collections.abc import Iterator
from pathlib import Path

from t5x_lite.errors import ConfigError

SHOWN = 10  # what is wrong is listed up to that many


class Problems:
    """What is wrong with some files, collected; `check` raises it as one ConfigError."""

    def __init__(self, owner: str):
        self._owner, self._found, self._more = owner, [], 0

    def add(self, where: str, what: str) -> None:
        if len(self._found) < SHOWN:
            self._found.append(f'{where}: {what}')
        else:
            self._more += 1

    def check(self) -> None:
        """ConfigError if there are any."""
        if self._found:
            more = [f'and {self._more} more'] if self._more else []
            raise ConfigError('\n  '.join([f'{self._owner}: mend', *self._found, *more]))


def lines(path: Path, problems: Problems) -> Iterator[tuple[str, str]]:
    """('FILE line 3', its text) of every line that is not empty; a file that cannot be read."""
    try:
        with path.open(encoding='utf-8') as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f'{path.name} line {number}', line.rstrip('\n').rstrip('\r')
    except (OSError, UnicodeDecodeError) as error:
        problems.add(str(path), getattr(error, 'strerror', None) or str(error))


def objects(path: Path, problems: Problems) -> Iterator[tuple[str, dict]]:
    """('FILE line 3', the JSON object on it)."""
    for where, line in lines(path, problems):
        try:
            found = json.loads(line)
        except ValueError as error:
            problems.add(where, f'is no JSON ({error})')
            continue
        if isinstance(found, dict):
            yield where, found
        else:
            problems.add(where, f'must be a JSON object, not {line:.40}')


def string(example: dict, name: str, where: str, problems: Problems) -> str | None:
    """A field that must be text; None, and a problem, if it is not."""
    value = example.get(name)
    if isinstance(value, str) and value.strip():
        return value
    problems.add(where, f'{name}={value!r:.40} must be text')
    return None
