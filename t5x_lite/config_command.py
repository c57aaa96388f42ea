"""`t5x-lite config`: an experiment, its sizes, or a preset, printed."""
# SPDX-License-Identifier: Apache-2.0

import math
from collections.abc import Callable, Iterator

from t5x_lite.errors import ConfigError, nearest


def run(options, load: Callable) -> None:
    """Prints what the options ask for; `load` makes their config a config.Loaded."""
    from t5x_lite import printing

    named = options.config and '.' not in options.config and '/' not in options.config
    if named:
        model, heads = preset(options), {}
        print(
            '\n'.join(counted(model, heads)) if options.count else printing.source(model, 'model')
        )
        return
    loaded = load(options)
    if options.count:
        from t5x_lite.tuning import summary

        counts = counted(loaded.experiment.model, loaded.experiment.heads)
        print('\n'.join([*counts, *summary.learned(loaded.experiment)]))
    elif options.sharding:
        from t5x_lite import sharding_table

        mesh = loaded.experiment.mesh
        devices = options.devices or math.prod(size for size in mesh.sizes if size > 0)
        print('\n'.join(sharding_table.lines(loaded.experiment, devices)))
    else:
        print(printing.explain(loaded))


def find_preset(name: str):
    """The function of model/presets of that name; ConfigError names the nearest."""
    from t5x_lite.model import presets

    if name not in presets.__all__:
        raise ConfigError(
            f'{name!r} is no preset of model/presets; {nearest(name, presets.__all__)}'
        )
    return getattr(presets, name)


def preset(options):
    """The model of a preset, with what `--set model.FIELD=VALUE` changes."""
    from t5x_lite.interop.exchange import Architecture
    from t5x_lite.overrides import override

    if options.smoke or options.imports or options.gin_file or options.gin_bindings:
        raise ConfigError(
            f'{options.config}: is a preset, a model alone; --smoke, --import and gin options need '
            'a config file; --set model.FIELD=VALUE works'
        )
    own = Architecture(model=find_preset(options.config)(), heads={})
    return override(own, options.set)[0].model


def counted(model, heads) -> Iterator[str]:
    """Lines with numbers of parameters: rows that pad the vocabulary apart, heads apart."""
    from t5x_lite.interop import architectures
    from t5x_lite.model.count import count

    counts = count(model, heads)
    yield f'parameters: {counts.total:,}'
    yield f'  of them token tables: {counts.tables:,} (vocabulary of {model.vocab:,})'
    if heads:
        yield f'  heads: {", ".join(sorted(heads))}'
    if counts.padding:
        yield f'and rows that pad the tables to {model.rows:,}: {counts.padding:,}'
        yield f'in all: {counts.total + counts.padding:,}'
    for name, own in {} if heads else architectures.published_heads(model).items():
        yield f'as {name}: {count(model, own).total:,}'
