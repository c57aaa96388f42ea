"""`t5x-lite launch`: a config checked against its machines, then started there or printed."""
# SPDX-License-Identifier: Apache-2.0

import getpass
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from t5x_lite.launch import job as jobs
from t5x_lite.launch import machines, manifests, package, tpu
from t5x_lite.launch.gcloud import Gcloud
from t5x_lite.launch.job import Job
from t5x_lite.launch.machines import Machine


def run(options, load: Callable) -> None:
    """One of the three commands; `load` makes the options' config a config.Loaded.

    Raises:
      ConfigError: the config, the machines or the run's folder are wrong; nothing was made yet.
      RunError: gcloud or the run failed.
    """
    COMMANDS[options.command](options, load)


def on_tpu(options, load: Callable) -> None:
    machine = machines.find(options.type)
    job, loaded = _cloud_job(options, load, machine)
    why = f'each of {job.hosts} hosts has its own' if job.hosts > 1 else None
    jobs.check_bucket(job, why or ('a spot TPU takes its own with it' if options.spot else None))
    folder = Path(tempfile.gettempdir()) / f't5x_lite_{getpass.getuser()}'
    gcloud = Gcloud(
        name=job.name,
        machine=machine,
        zone=options.zone,
        archive=folder / f'{job.name}.tar.gz',
        runtime=options.runtime_version,
        project=options.project,
        spot=options.spot,
    )
    files = [*([options.config] if options.config else []), *options.gin_file]
    packed = package.pack(package.find_tree(loaded, files), job, gcloud.archive)
    told = f'packed {packed.files} files, {packed.size / 1e6:.1f} MB: {packed.path}'
    if options.dry_run:
        print(f'# {told}', *tpu.dry_run(gcloud), sep='\n')
        return
    tpu.say(told)
    again = shlex.join(['t5x-lite', *sys.argv[1:]])
    tpu.Launcher(gcloud=gcloud, poll=options.poll, again=again).run()


def on_kubernetes(options, load: Callable) -> None:
    machine = machines.find(options.type)
    job, _ = _cloud_job(options, load, machine)
    jobs.check_bucket(job, 'a pod keeps nothing of its own')
    how = dict(image=options.image, account=options.service_account, spot=options.spot)
    print(manifests.jobset(job, machine, **how), end='')


def on_slurm(options, load: Callable) -> None:
    job = _job(options, options.nodes)
    experiment = load(options).experiment
    jobs.check_experiment(experiment, options.nodes * options.gpus, options.nodes)
    jobs.check_shared(job)
    how = dict(gpus=options.gpus, time=options.time, more=tuple(options.sbatch))
    print(manifests.sbatch(job, **how), end='')


def _cloud_job(options, load: Callable, machine: Machine):
    """(Job, config.Loaded), checked against the slices of a machine."""
    job = _job(options, machine.hosts * machine.target.slices)
    jobs.check_data(options.tfds_data_dir)
    loaded = load(options)
    jobs.check_experiment(loaded.experiment, machine.target.devices, job.hosts)
    return job, loaded


def _job(options, hosts: int) -> Job:
    return Job(
        name=options.name,
        arguments=jobs.train_arguments(options),
        run=options.run or f'runs/{options.name}',
        hosts=hosts,
    )


COMMANDS = {'launch tpu': on_tpu, 'launch k8s': on_kubernetes, 'launch slurm': on_slurm}
