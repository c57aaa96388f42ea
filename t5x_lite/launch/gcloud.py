"""The commands of gcloud for one queued resource of TPUs, from its making to its end."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from t5x_lite.errors import ConfigError
from t5x_lite.launch.machines import Machine
from t5x_lite.launch.package import SOURCE

EVERYWHERE = ('--node=all', '--worker=all')
# A host that is gone is noticed after two minutes of silence; without these, never.
ALIVE = ('--ssh-flag=-o ServerAliveInterval=30', '--ssh-flag=-o ServerAliveCountMax=4')


@dataclass(frozen=True, kw_only=True)
class Gcloud:
    """Commands as lists of words; `archive` is the packed tree, `runtime` the hosts' software."""

    name: str
    machine: Machine
    zone: str
    archive: Path
    runtime: str | None = None  # None: the one for this family
    project: str | None = None  # None: gcloud's own
    spot: bool = False

    def __post_init__(self):
        if self.machine.names.accelerator is None:
            raise ConfigError(
                f'--type={self.machine.target.name}: is offered by GKE alone; use launch k8s'
            )

    def describe(self) -> list[str]:
        """Prints the state and, behind a tab, the accelerator type."""
        shown = 'state.state,tpu.nodeSpec[0].node.acceleratorType'
        return self._call('describe', self.name, f'--format=value({shown})')

    def explain(self) -> list[str]:
        """Prints all that is known of it."""
        return self._call('describe', self.name)

    def create(self) -> list[str]:
        slices, nodes = self.machine.target.slices, [f'--node-id={self.name}']
        if slices > 1:
            nodes = [f'--node-count={slices}', f'--node-prefix={self.name}']
        return self._call(
            'create',
            self.name,
            *nodes,
            f'--accelerator-type={self.machine.accelerator_type}',
            f'--runtime-version={self.runtime or self.machine.names.runtime}',
            *(['--spot'] if self.spot else []),
        )

    def delete(self) -> list[str]:
        """Deletes it with its TPUs, also while they work."""
        return self._call('delete', self.name, '--force')

    def prepare(self) -> Iterator[tuple[str, list[str]]]:
        """(what it does, command): from bare hosts to a run that goes on by itself."""
        folder, packed = self.name, self.archive.name
        clean = f'mkdir -p {folder} && rm -rf {folder}/tree {folder}/{SOURCE}'
        unpack = f'{clean} && tar -xzf {packed} -C {folder}'
        install = f'{unpack} && bash {folder}/host.sh install'
        yield 'copy', self._call('scp', str(self.archive), f'{self.name}:{packed}', *EVERYWHERE)
        yield 'install', self._ssh(install, *EVERYWHERE)
        yield 'start', self._ssh(f'bash {folder}/host.sh start', *EVERYWHERE)

    def status(self) -> list[str]:
        """Prints what host 0's run does: `running`, `ended STATUS`, or `none`."""
        script = f'{self.name}/host.sh'
        return self._ssh(f'if [ -f {script} ]; then bash {script} status; else echo none; fi')

    def follow(self, line: int) -> list[str]:
        """Prints host 0's log from that line on, until the run ends, and how it ended."""
        return self._ssh(f'bash {self.name}/host.sh follow {line}', *ALIVE)

    def stop(self) -> list[str]:
        """Ends the run on all hosts, with a checkpoint; the TPUs stay."""
        return self._ssh(f'bash {self.name}/host.sh stop', *EVERYWHERE)

    def _ssh(self, command: str, *options: str) -> list[str]:
        return self._call('ssh', self.name, f'--command={command}', *options)

    def _call(self, verb: str, *words: str) -> list[str]:
        where = [f'--zone={self.zone}', *([f'--project={self.project}'] if self.project else [])]
        return ['gcloud', 'compute', 'tpus', 'queued-resources', verb, *words, *where, '--quiet']
