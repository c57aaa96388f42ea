"""Arguments of the command line: every command's options, with their help."""
# SPDX-License-Identifier: Apache-2.0

import argparse
from collections.abc import Sequence
from pathlib import Path

from t5x_lite import __version__
from t5x_lite.inference import arguments as inference
from t5x_lite.launch import arguments as launch


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of one command, `command` among them; exits with status 2 if they are wrong."""
    top = argparse.ArgumentParser(
        prog='t5x-lite',
        description='Self-supervised pre-training and fine-tuning of Transformers in JAX.',
    )
    top.add_argument('--version', action='version', version=__version__)
    commands = top.add_subparsers(required=True, metavar='COMMAND')
    _add_runs(commands)
    _add_looks(commands)
    inference.add(commands, folder, _whole)
    command = commands.add_parser('report', help="write a run's report.html again")
    command.add_argument('run', type=folder, help='folder of the run')
    command.set_defaults(command='report')

    command = commands.add_parser('ckpt', help='look at checkpoints; Hugging Face files in and out')
    _add_ckpt(command.add_subparsers(required=True, metavar='WHAT'))

    command = commands.add_parser('data', help='look at data, measure it; vocabularies')
    _add_data(command.add_subparsers(required=True, metavar='WHAT'))

    command = commands.add_parser('launch', help='start a run on a Cloud TPU, Kubernetes, Slurm')
    launch.add(command.add_subparsers(required=True, metavar='WHERE'), _add_config, _whole)
    return top.parse_args(_gin_equals(arguments))


def _add_runs(commands) -> None:
    command = commands.add_parser('train', help='train an experiment, or go on with its run')
    _add_config(command)
    command.add_argument('--run', required=True, type=folder, help='folder of the run')
    command.add_argument('--wandb', action='store_true', help='log to Weights & Biases too')
    _add_hosts(command)
    command.set_defaults(command='train')

    command = commands.add_parser('eval', help="evaluate a run's checkpoint")
    command.add_argument('run', type=folder, help='folder of the run')
    command.add_argument('--step', help="which checkpoint, or 'all' (default: the newest)")
    command.add_argument('--split', default='validation', help='which split (default: %(default)s)')
    command.add_argument('--mixture', metavar='[STREAM=]M', help='another task or mixture')
    command.add_argument(
        '--import', action='append', default=[], dest='imports', metavar='MODULE', help='its module'
    )
    command.add_argument('--set', action='append', default=[], metavar='A.B=C', help='mesh.fsdp=1')
    command.add_argument('--tfds_data_dir', help='folder of prepared TFDS datasets')
    _add_hosts(command)
    command.set_defaults(command='eval')


def _add_looks(commands) -> None:
    command = commands.add_parser('config', help='print an experiment and where its values are set')
    _add_config(command)
    command.add_argument(
        '--count', action='store_true', help='print numbers of parameters; CONFIG may be a preset'
    )
    command.add_argument(
        '--sharding', action='store_true', help='print where each array lies, and its bytes'
    )
    command.add_argument(
        '--devices', type=_whole, metavar='N', help='of --sharding (default: those of the mesh)'
    )
    command.set_defaults(command='config')

    command = commands.add_parser('check', help='what a run will take, and whether it fits')
    _add_config(command)
    command.add_argument(
        '--devices', type=_whole, metavar='N', help='how many (default: those of the mesh)'
    )
    command.add_argument(
        '--topology',
        metavar='NAME',
        help='compile for a TPU slice such as v5e-16 (extra `tpu`), or estimate for gpu:h100:8',
    )
    command.set_defaults(command='check')


def _add_config(command: argparse.ArgumentParser, what: str = 'a .gin or .py file') -> None:
    command.add_argument('config', nargs='?', help=what)
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


def _add_hosts(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group(
        'several hosts',
        'found on Cloud TPU, Slurm, Open MPI and Kubernetes; elsewhere all three flags, on each',
    )
    group.add_argument('--coordinator', metavar='HOST:PORT', help='of process 0, a free port there')
    group.add_argument('--process_id', type=int, metavar='I', help='of this one, 0 to N-1')
    group.add_argument('--processes', type=int, metavar='N', help='how many; 1: this one alone')
    group.add_argument(
        '--patience',
        type=float,
        default=300,
        metavar='SECONDS',
        help='for the others, before the run gives up or says who is late (default: %(default)s)',
    )


def _add_ckpt(commands) -> None:
    command = commands.add_parser('ls', help="a run's checkpoints")
    command.add_argument('run', type=folder, help='folder of the run')
    command.set_defaults(command='ckpt ls')

    command = commands.add_parser('show', help='the parameters of a checkpoint')
    command.add_argument('run', type=folder, help='folder of the run')
    command.add_argument('--step', type=int, help='which checkpoint (default: the newest)')
    command.set_defaults(command='ckpt show')

    command = commands.add_parser('diff', help='in what the parameters of two checkpoints differ')
    for name in ('a', 'b'):
        command.add_argument(name, type=Path, metavar='RUN[@STEP]', help='folder of a run')
    command.set_defaults(command='ckpt diff')

    command = commands.add_parser('import', help="a folder of files as a run's folder")
    command.add_argument(
        '--from', required=True, type=Path, dest='source', help='with config.json and safetensors'
    )
    command.add_argument('--to', required=True, type=Path, help='the folder of the run to make')
    command.add_argument(
        '--preset', help="for a T5X checkpoint: which model it is, such as 't5_1_1_base'"
    )
    command.add_argument(
        '--loose', action='store_true', help='leave out tensors that have no place in the model'
    )
    command.set_defaults(command='ckpt import')

    _add_adapters(commands)
    command = _add_moved(commands, 'export', 'a run as files that transformers loads')
    command.add_argument(
        '--head',
        action='append',
        default=[],
        metavar='NAME[=KIND]',
        help="one of the run's heads, and what transformers' family calls it, or 'none'",
    )
    command.add_argument(
        '--dtype',
        default='float32',
        choices=('float32', 'bfloat16', 'float16'),
        help='of the tensors (default: %(default)s)',
    )
    command.add_argument('--license', help="of the model card: the Hub's name of a licence")
    command.add_argument('--language', help='of the model card: such as en')

    command = _add_moved(commands, 'export-jax', "a run's predict function, for jax alone")
    command.add_argument(
        '--head', required=True, help="one of the run's heads, 'embedding', or 'next' (token)"
    )
    command.add_argument(
        '--pool',
        choices=('cls', 'mean', 'last', 'none'),
        help="how a row becomes one vector (default: as in the run's own loss)",
    )


def _add_moved(commands, name: str, told: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=told)
    command.add_argument('--from', required=True, type=Path, dest='source', help='folder of a run')
    command.add_argument('--to', required=True, type=Path, help='the folder to make')
    command.add_argument('--step', type=int, help='which checkpoint (default: the newest)')
    command.set_defaults(command=f'ckpt {name}')
    return command


def _add_adapters(commands) -> None:
    for name, told in (
        ('merge', "a run with LoRA as a run's folder of the base, adapters added to its weights"),
        ('adapter', "a run's LoRA adapters alone, as files that peft loads"),
    ):
        command = _add_moved(commands, name, told)
    command.add_argument(
        '--own-names', action='store_true', help="t5x_lite's paths in place of peft's names"
    )


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
    command.set_defaults(command='data vocab')

    command = commands.add_parser('show', help='what the model will see, token by token')
    _add_source(command)
    count = dict(type=_whole, metavar='N')
    command.add_argument(
        '--examples', default=3, **count, help='documents, and rows of a batch (default: 3)'
    )
    command.add_argument('--tokens', **count, help='places of a row in the terminal (default: 120)')
    command.set_defaults(command='data show')

    command = commands.add_parser('stats', help='lengths, duplicates, padding, speed')
    _add_source(command)
    command.add_argument('--documents', default=1000, **count, help='of each task (default: 1000)')
    command.add_argument('--batches', default=50, **count, help='of each stream (default: 50)')
    command.add_argument('--json', action='store_true', help='print the numbers as JSON')
    command.set_defaults(command='data stats')


def _add_source(command: argparse.ArgumentParser) -> None:
    _add_config(command, 'the name of a task or mixture, or a config: a .gin or .py file')
    command.add_argument('--split', default='train', help='which split (default: %(default)s)')
    command.add_argument('--seed', type=int, help="of the order (default: the experiment's, or 0)")
    command.add_argument('--html', type=Path, metavar='FILE', help='write a page too')


def folder(text: str) -> Path:
    """The path of a folder of this machine's file system."""
    if '://' in text:
        raise argparse.ArgumentTypeError(
            f'{text}: must be a folder; mount the bucket (gcsfuse BUCKET FOLDER, as `t5x-lite '
            'launch` does on its machines) and name the folder'
        )
    return Path(text)


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'{number} must be 1 or more')
    return number


def _gin_equals(arguments: Sequence[str]) -> list[str]:
    """T5X's `--gin.NAME=value` as `--gin.NAME` with the binding as its value."""
    out = []
    for argument in arguments:
        if argument.startswith('--gin.') and '=' in argument:
            out.append('--gin.NAME=' + argument.removeprefix('--gin.'))
        else:
            out.append(argument)
    return out
