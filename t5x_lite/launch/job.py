"""What is launched: an experiment checked against its hosts, and the arguments that train it."""
# SPDX-License-Identifier: Apache-2.0

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from t5x_lite.config import PROJECT
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Experiment

BUCKET = 'gs://'
NAME = r'[a-z]([-a-z0-9]{0,38}[a-z0-9])?'  # what gcloud and Kubernetes take, with room for suffixes
OWN_DISK = ('/tmp', '/var/tmp', '/dev/shm', '/run', tempfile.gettempdir())


@dataclass(frozen=True, kw_only=True)
class Job:
    """A name, the arguments of `t5x-lite` without --run, the run's folder, and how many hosts."""

    name: str
    arguments: tuple[str, ...]
    run: str
    hosts: int

    def __post_init__(self):
        if not re.fullmatch(NAME, self.name):
            near = re.sub(r'[^a-z0-9]+', '-', self.name.lower()).strip('-0123456789')[:40]
            raise ConfigError(
                f'--name {self.name}: must be small letters, digits and hyphens, 40 at most, and '
                f'begin with a letter; try {near or "run-1"}'
            )
        if self.run.startswith(BUCKET) and not self.folder:
            raise ConfigError(
                f'--run {self.run}: must be a folder of a bucket; try gs://BUCKET/{self.name}'
            )

    @property
    def bucket(self) -> str | None:
        """The bucket that holds the run's folder, if one does."""
        own = self.run.startswith(BUCKET)
        return self.run.removeprefix(BUCKET).partition('/')[0] if own else None

    @property
    def folder(self) -> str:
        """The run's folder inside its bucket, or as it was given."""
        if self.bucket is None:
            return self.run
        return self.run.removeprefix(BUCKET).partition('/')[2].strip('/')

    @property
    def alone(self) -> tuple[str, ...]:
        """Arguments that say that there is one host, so that it looks for no others."""
        return ('--processes', '1') if self.hosts == 1 else ()


def train_arguments(options) -> tuple[str, ...]:
    """The arguments of `t5x-lite train` that say the same as a launcher's options."""
    out = ['train', *([_from_here(options.config)] if options.config else [])]
    out += [f'--gin_file={_from_here(file)}' for file in options.gin_file]
    out += [f'--gin.{binding}' for binding in options.gin_bindings]
    if options.gin_search_paths:
        out.append(f'--gin_search_paths={options.gin_search_paths}')
    for assignment in options.set:
        out += ['--set', assignment]
    for module in options.imports:
        out += ['--import', module]
    out += ['--smoke'] if options.smoke else []
    if options.tfds_data_dir:
        out.append(f'--tfds_data_dir={options.tfds_data_dir}')
    return tuple(out)


def _from_here(file: str) -> str:
    """The same file under a name that holds on other hosts: relative to here or to the project."""
    if not Path(file).is_absolute():
        return file
    path = Path(file).resolve()
    inside = path.is_relative_to(PROJECT)
    return str(path.relative_to(PROJECT)) if inside else os.path.relpath(path)


def check_experiment(experiment: Experiment, devices: int, hosts: int) -> None:
    """ConfigError unless mesh, batches and data divide over that many devices and hosts."""
    experiment.check_devices(devices)
    shards = experiment.data_shards
    if shards % hosts:
        fits = -(-shards // hosts) * hosts
        raise ConfigError(
            f'Experiment: data_shards={shards} must be a multiple of the number of hosts {hosts}; '
            f'try --set data_shards={fits}'
        )


def check_bucket(job: Job, why: str | None) -> None:
    """ConfigError unless the run is in a bucket; `why` says who would lose it, None: nobody."""
    if '://' in job.run and job.bucket is None:
        raise ConfigError(f'--run {job.run}: only {BUCKET} is known here; try {_in_bucket(job)}')
    if why and job.bucket is None:
        raise ConfigError(
            f'--run {job.run}: is a folder on one disk, but {why}; try {_in_bucket(job)}'
        )


def check_shared(job: Job) -> None:
    """ConfigError if the run's folder cannot be one that all nodes of a cluster share."""
    if '://' in job.run:
        raise ConfigError(
            f'--run {job.run}: must be a path on the file system that the nodes share, mounted '
            'under the same name on each'
        )
    folder = Path(job.run).resolve()
    own = [disk for disk in OWN_DISK if folder.is_relative_to(disk)]
    if own and job.hosts > 1:
        raise ConfigError(
            f"--run {job.run}: {own[0]} is each node's own disk, but {job.hosts} nodes need one "
            f'folder; try ~/runs/{job.name}, or another folder that they share'
        )


def check_data(folder: str | None) -> None:
    """ConfigError unless hosts elsewhere can read that folder of datasets."""
    if folder is not None and not folder.startswith(BUCKET):
        raise ConfigError(
            f'--tfds_data_dir={folder}: hosts in the cloud do not see this folder; copy it to a '
            f'bucket: gcloud storage cp -r {folder} gs://BUCKET/, and name that'
        )


def _in_bucket(job: Job) -> str:
    return f'gs://BUCKET/{PurePosixPath(job.run).name or job.name}'
