"""Packs what hosts need: files that git tracks, those of the config, and the hosts' script."""
# SPDX-License-Identifier: Apache-2.0

import importlib.util
import io
import os
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from t5x_lite import config
from t5x_lite.errors import ConfigError
from t5x_lite.launch.job import Job

REQUIREMENTS = 'requirements.txt'
SCRIPT = Path(__file__).with_name('host.sh')
# Where the tree is not t5x_lite's own, its source goes beside it, in a folder of this name.
SOURCE = 't5x_lite_source'
PARTS = ('setup.py', 'pyproject.toml', REQUIREMENTS, 'README.md', 't5x_lite', 'configs')


class Packed(NamedTuple):
    """A tarball, how many files are in it, and its bytes."""

    path: Path
    files: int
    size: int


class Tree(NamedTuple):
    """A git working tree, the folder in it where a command is given, and its files to pack."""

    root: Path
    folder: Path
    files: frozenset[Path]


def find_tree(loaded: config.Loaded, files: Iterable[str]) -> Tree:
    """The working tree around the current folder, with the files that the config needs.

    Raises:
      ConfigError: there is none, or a file that the config needs lies outside it.
    """
    here = Path.cwd().resolve()
    told = _git(here, 'rev-parse', '--show-toplevel')
    if told is None:
        raise ConfigError(
            f'{here}: is in no git repository, and the files that git tracks are what hosts get; '
            'git init && git add what the run needs, or run this where they are'
        )
    root = Path(told.strip())
    own = {config.find(name).resolve() for name in files}
    own |= {Path(where.rpartition(':')[0]).resolve() for where in loaded.origins.values()}
    own |= {f for module in loaded.experiment.imports for f in _module_files(module, here, root)}
    if root != config.PROJECT:  # its configs travel with the package
        own = {file for file in own if not file.is_relative_to(config.PROJECT)}
    own = {file for file in own if file.is_file()}
    for file in own:
        if not file.is_relative_to(root):
            raise ConfigError(
                f'{file}: lies outside {root}, which is what hosts get; copy it there'
            )
    untracked = set(_listed(root, '--others', '--exclude-standard'))
    own |= untracked & {Path(file).resolve() for file in _files_of_modules()}
    return Tree(root, here.relative_to(root), frozenset({*_listed(root), *own}))


def pack(tree: Tree, job: Job, path: Path) -> Packed:
    """Writes the tarball: tree/, host.sh, job.env and, if it is not in the tree, t5x_lite's source.

    Raises:
      ConfigError: t5x_lite was installed without its source.
    """
    entries = {Path('tree') / file.relative_to(tree.root): file for file in tree.files}
    source = 'tree'
    if tree.root != config.PROJECT:
        source = SOURCE
        if not (config.PROJECT / 'setup.py').is_file():
            raise ConfigError(
                f'{config.PROJECT}: t5x_lite is installed here without its source, which hosts '
                'need; install it by pip install -e from a checkout'
            )
        own = (file for part in PARTS for file in _all_files(config.PROJECT / part))
        entries |= {Path(source) / file.relative_to(config.PROJECT): file for file in own}
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tarfile.open(path, 'w:gz', format=tarfile.PAX_FORMAT) as tar:
        for name, file in sorted(entries.items()):
            tar.add(file, str(name), recursive=False, filter=_nobody)
        tar.add(SCRIPT, SCRIPT.name, filter=_nobody)
        _add_text(tar, 'job.env', environment(tree, job, source))
    return Packed(path, len(entries) + 2, path.stat().st_size)


def environment(tree: Tree, job: Job, source: str) -> str:
    """What host.sh reads, as assignments of bash."""
    values = dict(BUCKET=job.bucket or '', RUN=job.folder, SOURCE=source, FOLDER=str(tree.folder))
    lines = [f'{name}={shlex.quote(value)}' for name, value in values.items()]
    return '\n'.join([*lines, f'ARGUMENTS=({shlex.join([*job.arguments, *job.alone])})', ''])


def _module_files(name: str, here: Path, root: Path) -> Iterator[Path]:
    """The files of a module that registers tasks, and of its package; none if it is installed."""
    top, path = name.partition('.')[0], here.joinpath(*name.split('.'))
    if path.with_name(f'{path.name}.py').is_file() or path.is_dir():
        files = (here / top).rglob('*.py') if (here / top).is_dir() else [here / f'{top}.py']
        yield from (file.resolve() for file in files)
    elif importlib.util.find_spec(top) is None:
        raise ConfigError(f'--import {name}: there is no such module in {here}')
    elif top != 't5x_lite' and not _has_requirements(root):
        raise ConfigError(
            f'--import {name}: is installed here, but hosts get only the files around {here}; put '
            f'the module there, or name its package in {root / REQUIREMENTS}'
        )


def _has_requirements(root: Path) -> bool:
    """Whether the tree asks for packages beside those of t5x_lite."""
    return root != config.PROJECT and (root / REQUIREMENTS).is_file()


def _all_files(path: Path) -> list[Path]:
    files = path.rglob('*') if path.is_dir() else [path]
    return [file for file in files if file.is_file() and '__pycache__' not in file.parts]


def _files_of_modules() -> list[str]:
    files = [getattr(module, '__file__', None) for module in list(sys.modules.values())]
    return [file for file in files if file]


def _listed(root: Path, *options: str) -> list[Path]:
    """Files that git tracks and that are there, or those that `options` of ls-files ask for."""
    told = _git(root, 'ls-files', '-z', *options)
    if told is None:
        raise ConfigError(f'{root}: is not a git repository; git init && git add its files')
    files = (root / name for name in told.split('\0') if name)
    return [file for file in files if os.path.lexists(file) and not file.is_dir()]


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says in that folder; None: it is no working tree."""
    try:
        done = subprocess.run(['git', *arguments], cwd=folder, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ConfigError('git: is not installed here; launch packs the files it tracks') from error
    return done.stdout if done.returncode == 0 else None


def _nobody(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ''
    return entry


def _add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))
