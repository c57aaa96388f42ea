"""Inference over a file of JSON lines, in parts that a killed run does not do again."""
# SPDX-License-Identifier: Apache-2.0

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from t5x_lite.errors import ConfigError, RunError
from t5x_lite.inference.verbs import Verb

RECORD = 'infer.json'
_FAILED = re.compile(rb'\{"line": \d+, "error": ')


class Shard(NamedTuple):
    """The parts whose number leaves `index` when divided by `count`: the share of one machine."""

    index: int = 0
    count: int = 1


def infer(
    opened,
    verb: Verb,
    source: Path,
    target: Path,
    *,
    part_size: int = 1000,
    shard: Shard = Shard(),  # noqa: B008  a value
) -> str:
    """Writes `part-I-of-N.jsonl` files of a dict for each line of `source`; says what was done.

    Line n of the parts, one after the other, belongs to line n of the source: {"line": n, ...},
    with the line's "id" if it has one, or {"line": n, "error": ...}. A part that is there is left
    as it is, so that the same call goes on after a kill.

    Raises:
      ConfigError: what the run cannot do, files that cannot be read or written, a folder that
        belongs to other work.
      RunError: lines that could not be used; all others are done.
    """
    verb.check(opened)
    lines = _claim(opened, verb, source, target, part_size)
    parts = -(-lines // part_size)
    names = [target / f'part-{i:05}-of-{parts:05}.jsonl' for i in range(parts)]
    mine = range(shard.index, parts, shard.count)
    missing = [i for i in mine if not names[i].exists()]
    _run(opened, verb, source, {i: names[i] for i in missing}, part_size, lines)
    failed = [line for i in mine for line in _failed(names[i])]
    told = (
        f'{sum(1 for _ in mine)} of {parts} parts, {len(missing)} of them now: {target.resolve()}'
    )
    if failed:
        first = json.loads(failed[0])
        raise RunError(
            f'{source}: lines that could not be used: {len(failed)}; the first is line '
            f'{first["line"]}: {first["error"]}; the others are done ({told})'
        )
    return told


def _claim(opened, verb: Verb, source: Path, target: Path, part_size: int) -> int:
    """How many lines there are; ConfigError if the folder holds parts of something else."""
    digest, lines, last = hashlib.sha256(), 0, b'\n'
    try:
        with source.open('rb') as file:
            while block := file.read(1 << 20):
                digest.update(block)
                lines, last = lines + block.count(b'\n'), block
    except OSError as error:
        raise ConfigError(f'--input {source}: {error.strerror}; name a file to read') from error
    lines += not last.endswith(b'\n')
    record = {
        'run': str(opened.run.resolve()),
        'step': opened.step,
        'how': repr(verb),
        'input': digest.hexdigest(),
        'part_size': part_size,
    }
    file = target / RECORD
    try:
        target.mkdir(parents=True, exist_ok=True)
        if any(target.glob('part-*.jsonl')) and file.exists():
            _check_same(target, json.loads(file.read_text(encoding='utf-8')), record)
        elif any(not name.name.startswith('.') for name in target.iterdir() if name != file):
            raise ConfigError(f'--output {target}: holds other files; name a new folder')
        _write(file, (json.dumps(record, indent=2) + '\n').encode())
    except OSError as error:
        raise ConfigError(f'--output {target}: {error.strerror}; name a folder to write') from error
    return lines


def _check_same(target: Path, old: dict, new: dict) -> None:
    for name, value in new.items():
        if old.get(name) != value:
            raise ConfigError(
                f'--output {target}: holds parts with {name} {old.get(name)}, not {value}; '
                'name a new folder, or ask for the same'
            )


def _run(opened, verb: Verb, source: Path, missing: dict[int, Path], part_size: int, lines: int):
    total = sum(min(part_size, lines - i * part_size) for i in missing)
    shown = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    progress = Progress(*columns, console=shown, disable=not shown.is_terminal)
    with source.open('rb') as file, progress as bar:
        task = bar.add_task('lines', total=total)
        parts = iter(lambda: list(itertools.islice(file, part_size)), [])
        for i, part in enumerate(parts if missing else ()):
            if i in missing:
                first = i * part_size + 1
                done = _part(opened, verb, part, first)
                _write(missing[i], b''.join(json.dumps(one).encode() + b'\n' for one in done))
                bar.update(task, advance=len(part))


def _part(opened, verb: Verb, part, first: int) -> list[dict]:
    """A dict for each line."""
    out, ready = [], []
    for number, line in enumerate(part, first):
        told, example = {'line': number}, None
        out.append(told)
        try:
            example = json.loads(line)
            ready.append((told, verb.prepare(opened, example)))
        except (ValueError, RecursionError) as error:  # no JSON or UTF-8; ConfigError is one, too
            told['error'] = str(error)
        if isinstance(example, dict) and 'id' in example:
            told['id'] = example['id']
    if ready:
        dicts, prepared = zip(*ready, strict=True)
        found = verb.run(opened, prepared, [told['line'] for told in dicts])
        for told, result in zip(dicts, found, strict=True):
            told.update(result)
    return out


def _failed(file: Path) -> Iterator[bytes]:
    with file.open('rb') as lines:
        yield from (line for line in lines if _FAILED.match(line))


def _write(file: Path, data: bytes) -> None:
    """All of it or nothing, also if the machine stops."""
    scratch = file.with_name(f'.{file.name}.{os.getpid()}')
    with scratch.open('wb') as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    os.replace(scratch, file)
