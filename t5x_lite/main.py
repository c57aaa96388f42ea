"""The command line: train, eval, infer, config, check, ckpt, data, report, launch."""
# SPDX-License-Identifier: Apache-2.0

import errno
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping

from t5x_lite import compiled
from t5x_lite.arguments import parse
from t5x_lite.errors import ConfigError, RunError
from t5x_lite.stopwatch import Stopwatch

# Each command imports what it needs: `--help` and bad arguments answer at once.


def main(arguments=None) -> None:
    """Runs one command. Exit status: 0 done, 1 the run failed, 2 bad input, 130 interrupted.

    The current folder is importable, as with `python -m`: modules of tasks may lie in it.
    """
    if not {'', os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        COMMANDS[options.command](options)
    except ConfigError as error:
        sys.exit(_fail(error, 2))
    except RunError as error:
        sys.exit(_fail(error, 1))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        room = f'make room for the run and in {tempfile.gettempdir()}'
        sys.exit(_fail(f'disk: {error}; {room}, then run the same command to go on', 1))
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(error: Exception | str, status: int) -> int:
    print(f'error: {error}', file=sys.stderr)
    return status


def load(options):
    """The experiment that the options describe, as config.Loaded."""
    from t5x_lite import config

    use_data_dir(options.tfds_data_dir)
    files = [*([options.config] if options.config else []), *options.gin_file]
    if not files:
        raise ConfigError('CONFIG: name a .gin or .py file, or --gin_file=FILE')
    loaded = config.load(
        files,
        options.set,
        gin_bindings=options.gin_bindings,
        search_paths=[p for p in options.gin_search_paths.split(',') if p],
        imports=options.imports,
    )
    return tiny_twin(loaded) if options.smoke else loaded


def tiny_twin(loaded):
    """The config.Loaded of `--smoke`; says which mixtures were replaced."""
    from t5x_lite import smoke

    old = loaded.experiment
    new = smoke.shrink(old, data_dir='TFDS_DATA_DIR' in os.environ)
    for name, stream in new.streams.items():
        if stream.mixture != old.streams[name].mixture:
            print(
                f"--smoke: stream '{name}' reads the bundled text {stream.mixture!r} in place of "
                f'{old.streams[name].mixture!r}; to keep it, name its folder: --tfds_data_dir=DIR',
                file=sys.stderr,
            )
    changed = dict.fromkeys(smoke.changed(old, new), '--smoke')
    return loaded._replace(experiment=new, origins={**loaded.origins, **changed})


def train(options) -> None:
    clock = Stopwatch('start/import')
    with together(options):
        compiled.keep()
        clock.begin('start/config')
        experiment = load(options).experiment
        clock.begin('start/import')

        import jax

        from t5x_lite import hosts, run, train

        clock.begin('start/config')
        experiment.check_devices(jax.device_count())
        run.claim_together(options.run, experiment, name=options.config or options.gin_file[0])
        own = dict(wandb=options.wandb, patience=options.patience, clock=clock)
        values = train.train(experiment, options.run, **own)
        if hosts.is_first():
            print(*outcome(values), f'report: {(options.run / "report.html").resolve()}', sep='\n')


def together(options):
    """A context in which this process is one of several, if the options or a launcher say so."""
    from t5x_lite import hosts

    flags = options.coordinator, options.process_id, options.processes
    return hosts.started(*flags, patience=options.patience)


def outcome(values: Mapping[str, float]) -> Iterator[str]:
    """A line for each token loss that was compared with a unigram model's on the same text."""
    for name, unigram in values.items():
        if name.endswith('/unigram_bits_per_byte'):
            name = name.replace('unigram_', '')
            yield f'held-out {name}: {values[name]:.3f} (unigram model: {unigram:.3f})'


def evaluate(options) -> None:
    use_data_dir(options.tfds_data_dir)
    with together(options):
        compiled.keep()

        from t5x_lite import hosts, run

        values = run.evaluate(
            options.run,
            step=options.step,
            split=options.split,
            mixture=options.mixture,
            imports=options.imports,
            overrides=options.set,
        )
        for name, value in values:
            if hosts.is_first():
                print(f'{name} {value:.5g}')


def config(options) -> None:
    from t5x_lite import config_command

    config_command.run(options, load)


def check(options) -> None:
    experiment = load(options).experiment

    import jax

    from t5x_lite import check

    jax.config.update('jax_platforms', 'cpu')  # shapes alone: a TPU here is not taken
    for line in check.lines(experiment, devices=options.devices, where=options.topology):
        print(line, flush=True)


def import_weights(options) -> None:
    from t5x_lite.config_command import find_preset
    from t5x_lite.interop import exchange

    source, run, strict = options.source, options.to, not options.loose
    if options.preset is None:
        print(exchange.import_folder(source, run, strict=strict))
        return
    print(exchange.import_t5x(source, find_preset(options.preset)(), run, strict=strict))


def export_weights(options) -> None:
    from t5x_lite.interop import exchange

    chosen = dict(step=options.step, dtype=options.dtype, heads=options.head)
    chosen |= dict(license=options.license, language=options.language)
    print(exchange.export_run(options.source, options.to, **chosen))


def export_function(options) -> None:
    from t5x_lite.interop import serialized

    serialized.run(options)


def move_adapters(options) -> None:
    from t5x_lite.interop import adapted

    source, target, step = options.source, options.to, options.step
    if options.command == 'ckpt merge':
        print(adapted.merge_run(source, target, step=step))
    else:
        own = options.own_names
        print(adapted.export_adapter(source, target, step=step, own_names=own))


def look_at_checkpoints(options) -> None:
    from t5x_lite import checkpoint_view

    lines = {
        'ckpt ls': lambda: checkpoint_view.listed(options.run),
        'ckpt show': lambda: checkpoint_view.shown(options.run, options.step),
        'ckpt diff': lambda: checkpoint_view.difference(options.a, options.b),
    }
    for line in lines[options.command]():
        print(line)


def report(options) -> None:
    from t5x_lite.report import write_report
    from t5x_lite.run import check_trained

    check_trained(options.run)
    print(write_report(options.run).resolve())


def vocab(options) -> None:
    from t5x_lite.data import train_vocabulary

    train_vocabulary.run(options.to, options.files, options.size, options.kind, options.lowercase)
    print(options.to.resolve())


def look_at_data(options) -> None:
    from t5x_lite import data_commands

    use_data_dir(options.tfds_data_dir)
    data_commands.run(options, load)


def launch(options) -> None:
    from t5x_lite.launch import command

    command.run(options, load)


def infer(options) -> None:
    from t5x_lite.inference import command

    use_data_dir(options.tfds_data_dir)
    compiled.keep()
    command.run(options)


def use_data_dir(folder: str | None) -> None:
    """Where TFDS datasets are looked for, as T5X's --tfds_data_dir."""
    if folder is None:
        return
    if '://' not in folder and not (os.path.isdir(folder) and os.access(folder, os.R_OK | os.X_OK)):
        raise ConfigError(
            f'--tfds_data_dir={folder}: must be a folder that can be read; '
            'name the one that holds the prepared datasets'
        )
    os.environ['TFDS_DATA_DIR'] = folder


COMMANDS = {
    'train': train,
    'eval': evaluate,
    'config': config,
    'check': check,
    'report': report,
    'ckpt ls': look_at_checkpoints,
    'ckpt show': look_at_checkpoints,
    'ckpt diff': look_at_checkpoints,
    'ckpt import': import_weights,
    'ckpt export': export_weights,
    'ckpt export-jax': export_function,
    'ckpt merge': move_adapters,
    'ckpt adapter': move_adapters,
    'data vocab': vocab,
    'data show': look_at_data,
    'data stats': look_at_data,
    'generate': infer,
    'fill': infer,
    'embed': infer,
    'infer': infer,
    'launch tpu': launch,
    'launch k8s': launch,
    'launch slurm': launch,
}
