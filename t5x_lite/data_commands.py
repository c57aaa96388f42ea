"""`t5x-lite data show` and `data stats`: what they read, and where the pictures of it go."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import importlib
import json
import os
import pkgutil
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from t5x_lite import paint_html
from t5x_lite.data import measure, seqio_source, sizes
from t5x_lite.data import show as views
from t5x_lite.data import tasks as shipped
from t5x_lite.errors import ConfigError
from t5x_lite.paint_text import Painter, in_colour


def run(options, load: Callable) -> None:
    """One of the two commands; `load` makes the options' config a config.Loaded.

    Raises:
      ConfigError: no such task, config, split or data; a page that cannot be written.
    """
    check_page(options.html)
    experiment = find_experiment(options, load)
    text, page = COMMANDS[options.command](options, experiment)
    if options.html:
        options.html.write_text(page(), encoding='utf-8')
    try:
        print(*text, sep='\n', flush=True)
        if options.html:
            print(options.html.resolve(), file=sys.stderr if quiet(options) else sys.stdout)
    except BrokenPipeError:  # who reads it, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def quiet(options) -> bool:
    """Whether stdout holds JSON and nothing else."""
    return getattr(options, 'json', False)


def show(options, experiment) -> tuple[Iterable[str], Callable[[], str]]:
    """Documents step by step and, of a config, rows of every stream: lines, and their page."""
    how = dict(split=options.split, count=options.examples)
    streams = []
    if experiment is None:
        tasks = views.task_views(options.config, **how, **find_task(options))
    else:
        own = dict(seed=experiment.seed, imports=experiment.imports)
        names = dict.fromkeys(stream.mixture for stream in experiment.streams.values())
        tasks = [view for name in names for view in views.task_views(name, **how, **own)]
        streams = [views.stream_view(experiment, name, **how) for name in experiment.streams]
    painter = make_painter(options.tokens)
    drawn = [*map(painter.task, tasks), *map(painter.stream, streams)]
    page = lambda: paint_html.views_page(title(options), tasks, streams)
    return (line for lines in drawn for line in (*lines, '')), page


def stats(options, experiment) -> tuple[Iterable[str], Callable[[], str]]:
    """Numbers of tasks and, of a config, of every stream: lines or JSON, and their page."""
    if experiment is None:
        how = dict(documents=options.documents, **find_task(options))
        found = measure.of_mixture(options.config, options.split, **how)
    else:
        how = dict(documents=options.documents, batches=options.batches)
        found = measure.of_experiment(experiment, options.split, **how)
    if options.split == 'train':
        remember(found, options.documents)
    page = lambda: paint_html.stats_page(title(options), found)
    if options.json:
        return [json.dumps(found.as_json(), indent=2)], page
    return make_painter().stats(found), page


def remember(found, documents: int) -> None:
    """Writes down sizes of mixtures that were read whole: `check` tells epochs by them."""
    for name, mixture in found.mixtures.items():
        if all(task.documents < documents for task in mixture.tasks.values()):
            own = {k: sizes.Size(t.documents, tokens(t)) for k, t in mixture.tasks.items()}
            try:
                sizes.remember(name, sizes.Sizes(own, mixture.rates))
            except OSError as error:
                print(f'sizes of {name} are not kept for `check`: {error}', file=sys.stderr)


def tokens(task) -> int:
    """Of a task's texts; annotations of them, which have no vocabulary, do not count."""
    return sum(x.tokens for x in task.features.values() if x.unknown is not None)


def find_experiment(options, load: Callable):
    """The experiment that the options describe, or None if they name a task or mixture."""
    name = options.config
    if name is None and not options.gin_file:
        raise ConfigError(f'{options.command}: name a task, a mixture, or a .gin or .py file')
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
    if (options.seed or 0) < 0:
        raise ConfigError(f'--seed={options.seed} must be 0 or more')
    seqio_source.import_seqio()
    for module in pkgutil.iter_modules(shipped.__path__, f'{shipped.__name__}.'):
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


COMMANDS = {'data show': show, 'data stats': stats}
