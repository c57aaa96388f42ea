"""The command line: train, eval, config, data, report."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import errno
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from t5x_lite import __version__
from t5x_lite.errors import ConfigError, RunError

# Each command imports what it needs: `--help` and bad arguments answer at once.


def main(arguments=None) -> None:
    """Runs one command. Exit status: 0 done, 1 the run failed, 2 bad input, 130 interrupted.

    The current folder is importable, as with `python -m`: modules of tasks may lie in it.
    """
    if not {'', os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    options = parser().parse_args(_gin_equals(sys.argv[1:] if arguments is None else arguments))
    try:
        options.run_command(options)
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


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog='t5x-lite',
        description='Self-supervised pre-training and fine-tuning of Transformers in JAX.',
    )
    top.add_argument('--version', action='version', version=__version__)
    commands = top.add_subparsers(required=True, metavar='COMMAND')
    command = commands.add_parser('train', help='train an experiment, or go on with its run')
    _add_config(command)
    command.add_argument('--run', required=True, type=Path, help='folder of the run')
    command.add_argument('--wandb', action='store_true', help='log to Weights & Biases too')
    command.set_defaults(run_command=train)

    command = commands.add_parser('eval', help="evaluate a run's checkpoint")
    command.add_argument('run', type=Path, help='folder of the run')
    command.add_argument('--step', type=int, help='which checkpoint (default: the newest)')
    command.add_argument('--split', default='validation', help='which split (default: %(default)s)')
    command.add_argument('--set', action='append', default=[], metavar='A.B=C', help='mesh.fsdp=1')
    command.add_argument('--tfds_data_dir', help='folder of prepared TFDS datasets')
    command.set_defaults(run_command=evaluate)

    command = commands.add_parser('config', help='print an experiment and where its values are set')
    _add_config(command)
    command.add_argument(
        '--count', action='store_true', help='print numbers of parameters; CONFIG may be a preset'
    )
    command.set_defaults(run_command=config)

    command = commands.add_parser('report', help="write a run's report.html again")
    command.add_argument('run', type=Path, help='folder of the run')
    command.set_defaults(run_command=report)

    command = commands.add_parser('ckpt', help='weights from and for Hugging Face files')
    _add_ckpt(command.add_subparsers(required=True, metavar='WHAT'))

    command = commands.add_parser('data', help='vocabularies')
    _add_data(command.add_subparsers(required=True, metavar='WHAT'))
    return top


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument('config', nargs='?', help='a .gin or .py file')
    command.add_argument(
        '--set', action='append', default=[], metavar='A.B=C', help='override, model.dropout=0.1'
    )
    command.add_argument('--smoke', action='store_true', help='a tiny twin that runs on a CPU')
    command.add_argument(
        '--import',
        action='append',
        default=[],
        dest='imports',
        metavar='MODULE',
        help='a module that registers tasks',
    )
    command.add_argument('--gin_file', action='append', default=[], help='as in T5X')
    command.add_argument('--gin_search_paths', default='', help='comma-separated folders')
    command.add_argument(
        '--gin.NAME',
        action='append',
        default=[],
        dest='gin_bindings',
        metavar='VALUE',
        help='a gin binding, --gin.NAME=VALUE',
    )
    command.add_argument('--tfds_data_dir', help='folder of prepared TFDS datasets')


def _add_ckpt(commands) -> None:
    command = commands.add_parser('import', help="a folder of files as a run's folder")
    command.add_argument(
        '--from', required=True, type=Path, dest='source', help='with config.json and safetensors'
    )
    command.add_argument('--to', required=True, type=Path, help='the folder of the run to make')
    command.add_argument(
        '--loose', action='store_true', help='leave out tensors that have no place in the model'
    )
    command.set_defaults(run_command=import_weights)

    command = commands.add_parser('export', help='a run as files that transformers loads')
    command.add_argument('--from', required=True, type=Path, dest='source', help='folder of a run')
    command.add_argument('--to', required=True, type=Path, help='the folder to make')
    command.add_argument('--step', type=int, help='which checkpoint (default: the newest)')
    command.add_argument(
        '--dtype',
        default='float32',
        choices=('float32', 'bfloat16', 'float16'),
        help='of the tensors (default: %(default)s)',
    )
    command.set_defaults(run_command=export_weights)


def _add_data(commands) -> None:
    command = commands.add_parser('vocab', help='train a vocabulary')
    command.add_argument(
        'files',
        nargs='*',
        help='JSON lines with a `text`, or .txt, a document a line (default: the bundled corpus)',
    )
    command.add_argument(
        '--kind',
        choices=('sentencepiece', 'wordpiece', 'bpe'),
        default='sentencepiece',
        help='unigram SentencePiece, WordPiece or byte-level BPE (default: %(default)s)',
    )
    command.add_argument('--size', type=int, default=8064, help='pieces without sentinels')
    command.add_argument('--lowercase', action='store_true', help='small letters only (wordpiece)')
    command.add_argument(
        '--to', required=True, type=Path, help='the model file to write, or the folder'
    )
    command.set_defaults(run_command=vocab)


def _gin_equals(arguments: list[str]) -> list[str]:
    """T5X's `--gin.NAME=value` as `--gin.NAME` with the binding as its value."""
    out = []
    for argument in arguments:
        if argument.startswith('--gin.') and '=' in argument:
            out.append('--gin.NAME=' + argument.removeprefix('--gin.'))
        else:
            out.append(argument)
    return out


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
    experiment = load(options).experiment

    import jax

    from t5x_lite import run, train

    experiment.check_devices(jax.device_count())
    run.claim(options.run, experiment, name=options.config or options.gin_file[0])
    values = train.train(experiment, options.run, wandb=options.wandb)
    print(*outcome(values), f'report: {(options.run / "report.html").resolve()}', sep='\n')


def outcome(values: Mapping[str, float]) -> Iterator[str]:
    """A line for each token loss that was compared with a unigram model's on the same text."""
    for name, unigram in values.items():
        if name.endswith('/unigram_bits_per_byte'):
            name = name.replace('unigram_', '')
            yield f'held-out {name}: {values[name]:.3f} (unigram model: {unigram:.3f})'


def evaluate(options) -> None:
    from t5x_lite import run

    use_data_dir(options.tfds_data_dir)
    values = run.evaluate(
        options.run, step=options.step, split=options.split, overrides=options.set
    )
    for name, value in values:
        print(f'{name} {value:.5g}')


def config(options) -> None:
    from t5x_lite import printing

    preset = find_preset(options.config)
    if options.count:
        print('\n'.join(counted(options, preset)))
    elif preset:
        print(printing.source(preset(), 'model'), end='')
    else:
        print(printing.explain(load(options)))


def find_preset(name: str | None):
    """The function of model/presets of that name, None if it looks like a file."""
    from t5x_lite.errors import nearest
    from t5x_lite.model import presets

    if name is None or '.' in name or '/' in name:
        return None
    if name not in presets.__all__:
        raise ConfigError(f'CONFIG: {name!r} is no preset; {nearest(name, presets.__all__)}')
    return getattr(presets, name)


def counted(options, preset) -> Iterator[str]:
    """Lines with numbers of parameters, the rows that pad the vocabulary apart."""
    from t5x_lite.model.count import count

    if preset:
        model, heads = preset(), {}
    else:
        experiment = load(options).experiment
        model, heads = experiment.model, experiment.heads
    counts = count(model, heads)
    yield f'parameters: {counts.total:,}'
    yield f'  of them token tables: {counts.tables:,} (vocabulary of {model.vocab:,})'
    if counts.padding:
        yield f'and rows that pad the tables to {model.rows:,}: {counts.padding:,}'
        yield f'in all: {counts.total + counts.padding:,}'
    if heads:
        yield f'  heads: {", ".join(sorted(heads))}'


def import_weights(options) -> None:
    from t5x_lite.interop import exchange

    print(exchange.import_folder(options.source, options.to, strict=not options.loose))


def export_weights(options) -> None:
    from t5x_lite.interop import exchange

    target = options.to
    step = exchange.export_run(options.source, target, step=options.step, dtype=options.dtype)
    print(f'step {step} of {options.source}: {target.resolve()}')


def report(options) -> None:
    from t5x_lite.report import write_report

    if not (options.run / 'experiment.py').exists():
        raise ConfigError(f'{options.run}: no run is there (experiment.py is missing)')
    print(write_report(options.run).resolve())


def vocab(options) -> None:
    from t5x_lite.data import train_vocabulary

    train_vocabulary.run(options.to, options.files, options.size, options.kind, options.lowercase)
    print(options.to.resolve())


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
