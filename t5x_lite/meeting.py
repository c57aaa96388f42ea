"""How several hosts find each other: by flags, or by what their launcher's environment says."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import os
import socket
import sys
import threading
import time

import jax

from t5x_lite.errors import ConfigError, RunError

FIX = (
    'start the same command on every host, with one --coordinator HOST:PORT that all can reach, '
    '--processes N and --process_id 0 to N-1; --processes 1 runs alone'
)


def start(
    coordinator: str | None, process_id: int | None, processes: int | None, patience: float
) -> None:
    """Starts jax.distributed if flags or the launcher's environment say that there are several.

    Raises:
      ConfigError: some flags but not all, or numbers that do not fit.
      RunError: the coordinator did not answer in `patience` seconds. If another host does not come
        in that time, the process ends: jax would abort it.
    """
    if processes == 1 and coordinator is None:
        return
    flags = dict(coordinator=coordinator, process_id=process_id, processes=processes)
    if any(value is not None for value in flags.values()):
        _check_flags(flags)
        if processes == 1:
            return
        if process_id > 0:
            _reach(coordinator, patience)
        how = dict(
            coordinator_address=coordinator,
            process_id=process_id,
            num_processes=processes,
            cluster_detection_method='deactivate',
        )
        found = f'--coordinator {coordinator}'
    elif found := launcher(os.environ):
        how = {}
    else:
        return
    late = f'{found}: the hosts did not come together in {patience:g} s'
    try:
        with _at_most(patience, late):
            jax.distributed.initialize(**how, initialization_timeout=int(patience) + 60)
    except Exception as error:  # jax, its cluster detection and gRPC raise many kinds
        raise RunError(f'{late}: {first_line(error)}; {FIX}') from error


@contextlib.contextmanager
def _at_most(seconds: float, late: str):
    """Ends the process with an error after that time: jax's own timeout is an abort."""

    def give_up():
        print(f'error: {late}; {FIX}', file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def launcher(environment) -> str | None:
    """The launcher that started several processes by these environment variables, or None."""
    several = lambda name: environment.get(name, '').isdigit() and int(environment[name]) > 1
    if several('SLURM_NTASKS') and 'SLURM_STEP_NODELIST' in environment:
        return 'Slurm'
    if several('OMPI_COMM_WORLD_SIZE'):
        return 'Open MPI'
    if environment.get('JAX_PLATFORMS', 'tpu').find('tpu') >= 0 and (
        ',' in environment.get('TPU_WORKER_HOSTNAMES', '')
        or several('MEGASCALE_NUM_SLICES')
        or _on_tpu_vm()
    ):
        return 'Cloud TPU'
    if 'KUBERNETES_SERVICE_HOST' in environment and 'JOB_COMPLETION_INDEX' in environment:
        return 'Kubernetes'
    return None


def _on_tpu_vm() -> bool:
    from jax._src import cloud_tpu_init  # there is no public name

    return cloud_tpu_init.running_in_cloud_tpu_vm


def _check_flags(flags) -> None:
    missing = [f'--{name}' for name, value in flags.items() if value is None]
    if missing:
        raise ConfigError(
            f'{", ".join(missing)}: missing; several hosts need all of --coordinator HOST:PORT, '
            '--process_id I and --processes N'
        )
    host, _, port = flags['coordinator'].rpartition(':')
    if not host or not port.isdigit():
        raise ConfigError(
            f'--coordinator {flags["coordinator"]}: must be HOST:PORT; try '
            f'{flags["coordinator"].rstrip(":")}:8476'
        )
    processes, process_id = flags['processes'], flags['process_id']
    if processes < 1 or not 0 <= process_id < processes:
        raise ConfigError(
            f'--process_id {process_id}: must be 0 to {max(processes, 1) - 1}, below --processes '
            f'{processes}'
        )


def _reach(coordinator: str, patience: float) -> None:
    """Waits until the coordinator's port is open."""
    host, _, port = coordinator.rpartition(':')
    limit, error = time.monotonic() + patience, 'nothing tried'
    while True:
        try:
            socket.create_connection((host.strip('[]'), int(port)), timeout=5).close()
            return
        except OSError as raised:
            error = raised
        if time.monotonic() > limit:
            raise RunError(
                f'--coordinator {coordinator}: no answer in {patience:g} s ({error}); start the '
                'same command with --process_id 0 on that host, and let its port through'
            ) from error
        time.sleep(0.2)


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0][:300]
