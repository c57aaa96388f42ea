"""Config files: load(path, overrides) makes a .py or .gin file an Experiment."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import inspect
import re
import runpy
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from t5x_lite import gin_config
from t5x_lite.errors import ConfigError, nearest
from t5x_lite.experiment import Experiment
from t5x_lite.gin_parser import shown
from t5x_lite.overrides import override

PROJECT = Path(__file__).resolve().parent.parent


class Loaded(NamedTuple):
    """An experiment and its origins: dotted path -> where it was set, `configs/runs/a.gin:12`.

    A path that is missing has its default, or came with the nearest path above it.
    """

    experiment: Experiment
    origins: Mapping[str, str]


def load(
    path: str | Path | Sequence[str | Path],
    overrides: Sequence[str] = (),
    *,
    gin_bindings: Sequence[str] = (),
    search_paths: Sequence[str | Path] = (),
    imports: Sequence[str] = (),
) -> Loaded:
    """Reads a Python file that defines `experiment`, or one or more gin files in their order.

    Args:
      overrides: `model.dropout=0.1` each, applied last and together.
      gin_bindings: what follows `--gin.`, such as `clm/Stream.batch_size=8`.
      search_paths: folders in which files and gin includes are looked for too.
      imports: modules that register tasks, added to `Experiment.imports`.

    Raises:
      ConfigError: whatever is wrong with the file or its values; one message that says where.
    """
    paths = [path] if isinstance(path, (str, Path)) else list(path)
    search = [Path(folder) for folder in search_paths]
    files = [find(name, search) for name in paths]
    if all(file.suffix == '.gin' for file in files):
        experiment, origins = gin_config.read(files, gin_bindings, [*search, PROJECT / 'configs'])
    elif len(files) > 1 or gin_bindings:
        raise ConfigError(
            f'{files[0]}: --gin_file and --gin.NAME need .gin files; use --set for a .py file'
        )
    else:
        experiment, origins = _run_python(files[0]), {'': shown(files[0])}
    if imports:
        experiment = dataclasses.replace(experiment, imports=(*experiment.imports, *imports))
        origins['imports'] = '--import'
    experiment, changed = override(experiment, overrides)
    return Loaded(experiment, {**origins, **dict.fromkeys(changed, '--set')})


def find(name: str | Path, search: Sequence[Path] = ()) -> Path:
    """The config file of that name: as given, or in the search paths, or the project's configs/."""
    name = Path(name)
    if name.suffix not in ('.gin', '.py'):
        raise ConfigError(f'{name}: a config is a .gin or .py file; {_nearest_config(name)}')
    for folder in (Path(), *search, PROJECT / 'configs', PROJECT):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f'{name}: there is no such file; {_nearest_config(name)}')


def _nearest_config(name: Path) -> str:
    patterns = ('configs/runs/*.gin', 'experiments/**/*.py')
    files = [file for pattern in patterns for file in PROJECT.glob(pattern)]
    return nearest(str(name), [str(file.relative_to(PROJECT)) for file in files])


def _run_python(file: Path) -> Experiment:
    try:
        names = runpy.run_path(str(file), run_name=file.stem)
    except SyntaxError as error:
        where = f'{shown(Path(error.filename or file))}:{error.lineno}'
        raise ConfigError(f'{where}: {error.msg}') from error
    except Exception as error:
        raise ConfigError(f'{_line_of(error, file)}: {_told(error)}') from error
    if 'experiment' not in names:
        own = [name for name in names if not name.startswith('_')]
        raise ConfigError(
            f'{shown(file)}: must define `experiment`, an Experiment; {nearest("experiment", own)}'
        )
    experiment = names['experiment']
    if not isinstance(experiment, Experiment):
        kind = f'{type(experiment).__name__}{"; call it" if callable(experiment) else ""}'
        raise ConfigError(f'{shown(file)}: `experiment` must be an Experiment, not {kind}')
    return experiment


def _line_of(error: Exception, file: Path) -> str:
    """The last line of the file itself on the way to the error."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if Path(f.filename).resolve() == file.resolve()]
    return f'{shown(file)}:{lines[-1]}' if lines else shown(file)


def _told(error: Exception) -> str:
    if isinstance(error, ConfigError):
        return str(error)
    wrong = re.match(r"(\w+)[.\w]*\(\) got an unexpected keyword argument '(\w+)'", str(error))
    for frame, _ in traceback.walk_tb(error.__traceback__ if wrong else None):
        called = frame.f_globals.get(wrong[1])
        if callable(called):
            known = inspect.signature(called).parameters
            return f'{wrong[1]} has no {wrong[2]!r}; {nearest(wrong[2], known)}'
    return f'{type(error).__name__}: {error}'
