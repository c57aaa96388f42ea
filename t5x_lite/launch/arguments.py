"""Options of `t5x-lite launch`."""
# SPDX-License-Identifier: Apache-2.0

import argparse
from collections.abc import Callable


def add(commands, add_config: Callable, whole: Callable) -> None:
    """Adds the commands; `add_config` has the options of a config, `whole` reads 1 or more."""
    command = commands.add_parser('tpu', help='make a Cloud TPU, train on it, follow and resume')
    _add_job(
        command, add_config, 'gs://BUCKET/FOLDER; a local one for one host (default: runs/NAME)'
    )
    _add_slice(command)
    command.add_argument('--zone', required=True, help='such as us-west4-a')
    command.add_argument('--project', help="(default: gcloud's own)")
    command.add_argument(
        '--runtime-version', metavar='R', help='software of its hosts (default: by type)'
    )
    command.add_argument(
        '--dry-run', action='store_true', help='print the commands for a new TPU and run none'
    )
    command.add_argument(
        '--poll',
        type=float,
        default=20,
        metavar='SECONDS',
        help='between two looks at its state (default: %(default)s)',
    )
    command.set_defaults(command='launch tpu')

    command = commands.add_parser('k8s', help='print a JobSet for TPUs on GKE')
    _add_job(command, add_config, 'gs://BUCKET/FOLDER')
    _add_slice(command)
    command.add_argument('--image', required=True, help='container with t5x-lite and the config')
    command.add_argument(
        '--service-account', default='default', metavar='A', help='one that may write the bucket'
    )
    command.set_defaults(command='launch k8s')

    command = commands.add_parser('slurm', help='print a script for sbatch, on GPUs')
    _add_job(command, add_config, 'a folder that the nodes share (default: runs/NAME)')
    count = dict(type=whole, metavar='N')
    command.add_argument('--nodes', default=1, **count, help='(default: %(default)s)')
    command.add_argument('--gpus', required=True, **count, help='of each node')
    command.add_argument('--time', default='24:00:00', help='of one allocation (%(default)s)')
    command.add_argument(
        '--sbatch', action='append', default=[], metavar='OPTION', help='--sbatch=--partition=gpu'
    )
    command.set_defaults(command='launch slurm')


def _add_job(command: argparse.ArgumentParser, add_config: Callable, run: str) -> None:
    add_config(command)
    command.add_argument('--name', required=True, help='of the run and of what is made for it')
    command.add_argument('--run', help=f"the run's folder: {run}")


def _add_slice(command: argparse.ArgumentParser) -> None:
    command.add_argument('--type', required=True, help='v5e-64, v5p-128, v6e-8, 2xv5p-128, ...')
    command.add_argument('--spot', action='store_true', help='cheaper, and may be taken away')
