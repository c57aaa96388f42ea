"""`t5x-lite data show` and `data stats`: what they read, and where the pictures of it go."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import importlib
import json
import pkgutil
import shutil
from collections.abc import Callable
from pathlib import Path

from t5x_lite import paint_html
from t5x_lite.data import measure, seqio_source, tasks
from t5x_lite.data import show as views
from t5x_lite.errors import ConfigError
from t5x_lite.paint_text import Painter, in_colour


def show(options, load: Callable) -> None:
    """Prints documents step by step and, of a config, rows of every stream; `--html` a page."""
    check_page(options.html)
    how = dict(split=options.split, count=options.examples)
    experiment = find_experiment(options, load)
    if experiment is None:
        found = views.task_views(options.config, **how, **find_task(options))
        streams = []
    else:
        own = dict(seed=experiment.seed, imports=experiment.imports)
        names = dict.fromkeys(stream.mixture for stream in experiment.streams.values())
        found = [view for name in names for view in views.task_views(name, **how, **own)]
        streams = [views.stream_view(experiment, name, **how) for name in experiment.streams]
    painter = make_painter(options.tokens)
    for view in found:
        print(*painter.task(view), '', sep='\n')
    for view in streams:
        print(*painter.stream(view), '', sep='\n')
    if options.html:
        write_page(options.html, paint_html.views_page(title(options), found, streams))


def stats(options, load: Callable) -> None:
    """Prints numbers of tasks and, of a config, of every stream; `--json`, `--html` a page."""
    check_page(options.html)
    experiment = find_experiment(options, load)
    if experiment is None:
        how = dict(documents=options.documents, **find_task(options))
        found = measure.of_mixture(options.config, options.split, **how)
    else:
        how = dict(documents=options.documents, batches=options.batches)
        found = measure.of_experiment(experiment, options.split, **how)
    if options.json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        print(*make_painter().stats(found), sep='\n')
    if options.html:
        page = paint_html.stats_page(title(options), found)
        write_page(options.html, page, quiet=options.json)


def find_experiment(options, load: Callable):
    """The experiment that the options describe, or None if they name a task or mixture."""
    name = options.config
    if name is not None and not name.endswith(('.gin', '.py')) and '/' not in name:
        if options.set or options.gin_file or options.gin_bindings or options.smoke:
            raise ConfigError(
                f'{name}: is no config file, but the name of a task or mixture; --set, --smoke and '
                'gin options need a .gin or .py file'
            )
        return None
    experiment = load(options).experiment
    if options.seed is None:
        return experiment
    return dataclasses.replace(experiment, seed=options.seed)


def find_task(options) -> dict:
    """Seed and imports of a task or mixture: those shipped with the package are known by name."""
    from t5x_lite.main import use_data_dir

    use_data_dir(options.tfds_data_dir)
    if (options.seed or 0) < 0:
        raise ConfigError(f'--seed={options.seed} must be 0 or more')
    seqio_source.import_seqio()
    for module in pkgutil.iter_modules(tasks.__path__, f'{tasks.__name__}.'):
        importlib.import_module(module.name)
    return dict(seed=options.seed or 0, imports=tuple(options.imports))


def make_painter(places: int | None = None) -> Painter:
    width = shutil.get_terminal_size((100, 24)).columns
    return Painter(colour=in_colour(), width=min(width, 160), places=places)


def title(options) -> str:
    return options.config or options.gin_file[0]


def check_page(file: Path | None) -> None:
    """ConfigError, before the data is read, if the page could not be written."""
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise ConfigError(f'--html={file}: must be a file in a folder that exists')


def write_page(file: Path, page: str, *, quiet: bool = False) -> None:
    file.write_text(page, encoding='utf-8')
    if not quiet:
        print(file.resolve())
