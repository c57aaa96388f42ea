"""A soak: a run of two processes, killed at random again and again, against the undisturbed run."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

GRACE = 5  # seconds that the other processes get to notice a death by themselves
HANGS = 900  # seconds after which a start that does nothing is a failure


def main() -> None:
    options = parse()
    options.folder.mkdir(parents=True, exist_ok=True)
    began, chance = time.monotonic(), random.Random(options.seed)
    undisturbed = options.folder / 'undisturbed'
    statuses = wait(launch(options, undisturbed))
    if statuses != [0] * options.processes:
        sys.exit(f'the undisturbed run failed: {statuses}, see {options.folder}')
    steps = max(step for step, _ in values(undisturbed))
    killed = options.folder / 'killed'
    kills = []
    while True:
        processes, lines = launch(options, killed), count(killed)
        if len(kills) < options.kills:
            # Early kills first, so that all of them happen before the end.
            done = max((step for step, _ in values(killed)), default=0)
            left = max(1, (steps - done) // (options.kills - len(kills)) // options.log_every)
            kills.append(kill(processes, killed, lines + chance.randint(0, left), chance))
            print(json.dumps(kills[-1]), flush=True)
            if kills[-1]['killed'] is not None:
                continue
            kills.pop()
        statuses = wait(processes)
        if statuses == [0] * options.processes:
            break
        sys.exit(f'a start that nobody killed failed: {statuses}, see {options.folder}')
    record = compare(undisturbed, killed)
    record |= dict(kills=len(kills), seed=options.seed, steps=steps, processes=options.processes)
    record |= dict(when=[kill['when'] for kill in kills], minutes=(time.monotonic() - began) / 60)
    print(json.dumps(record))
    (options.folder / 'record.json').write_text(json.dumps(record | {'log': kills}, indent=1))
    if record['different'] or len(kills) < options.kills:
        sys.exit(1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.chaos', description=__doc__)
    parser.add_argument('config', help='an experiment that logs and saves often')
    parser.add_argument('--folder', type=Path, required=True, help='an empty folder for the runs')
    parser.add_argument('--kills', type=int, default=20, help='at least (default: %(default)s)')
    parser.add_argument('--processes', type=int, default=2, help='default: %(default)s')
    parser.add_argument('--devices', type=int, default=2, help='of each, on a CPU')
    parser.add_argument('--log_every', type=int, default=1, help='of the experiment')
    parser.add_argument('--seed', type=int, default=0, help='chooses whom to kill, and when')
    parser.add_argument('--set', action='append', default=[], help='as of t5x-lite train')
    return parser.parse_args()


def launch(options, folder: Path) -> list[subprocess.Popen]:
    """`t5x-lite train` in all processes; what they say is added to files beside the folder."""
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        coordinator = f'127.0.0.1:{one.getsockname()[1]}'
    sets = [f'--set={text}' for text in [*options.set, f'log_every={options.log_every}']]
    command = [sys.executable, '-m', 't5x_lite', 'train', options.config, '--run', str(folder)]
    command += [*sets, '--coordinator', coordinator, '--processes', str(options.processes)]
    flags = f'--xla_force_host_platform_device_count={options.devices}'
    environment = {**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
    processes = []
    for i in range(options.processes):
        with open(folder.with_name(f'{folder.name}.{i}.txt'), 'a') as output:
            own = [*command, '--process_id', str(i)]
            pipes = dict(stdout=output, stderr=subprocess.STDOUT)
            processes.append(subprocess.Popen(own, env=environment, **pipes))
    return processes


def wait(processes, seconds: float = HANGS) -> list[int]:
    """Their exit statuses; those that still live after that time are killed."""
    limit = time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < limit:
        time.sleep(0.05)
    for process in processes:
        process.kill()
    return [process.wait() for process in processes]


def kill(processes, folder: Path, lines: int, chance: random.Random) -> dict:
    """SIGKILL to one process a moment after so many lines of metrics; None if the run ended."""
    victim, delay = chance.randrange(len(processes)), chance.uniform(0, 1)
    limit = time.monotonic() + HANGS
    while count(folder) < lines and time.monotonic() < limit:
        if any(process.poll() is not None for process in processes):
            return dict(killed=None, when='the run had ended')
        time.sleep(0.005)
    # Half of them are killed at the time when a checkpoint is half written, if one comes.
    if chance.random() < 0.5:
        saving = time.monotonic() + 5
        while not half_saved(folder) and time.monotonic() < saving:
            time.sleep(0.001)
        delay *= 0.05
    time.sleep(delay)
    if any(process.poll() is not None for process in processes):
        return dict(killed=None, when='the run had ended')
    when = 'while saving' if half_saved(folder) else 'between saves'
    processes[victim].kill()
    began = time.monotonic()
    statuses = wait(processes, GRACE)
    told = dict(killed=victim, when=when, lines=count(folder), saved=saved(folder))
    return told | dict(statuses=statuses, seconds=round(time.monotonic() - began, 1))


def half_saved(folder: Path) -> bool:
    return any(folder.glob('checkpoints/*.orbax-checkpoint-tmp*'))


def saved(folder: Path) -> list[int]:
    return sorted(int(p.name) for p in folder.glob('checkpoints/*') if p.name.isdigit())


def count(folder: Path) -> int:
    path = folder / 'metrics.jsonl'
    return path.read_bytes().count(b'\n') if path.exists() else 0


def values(folder: Path) -> dict[tuple[int, str], set[float]]:
    """All that was ever written for a step by training and evaluation."""
    path, found = folder / 'metrics.jsonl', {}
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:  # cut short by a kill
            continue
        for name, value in line.items():
            if name.startswith(('train/', 'eval/')):
                found.setdefault((line['step'], name), set()).add(value)
    return found


def compare(undisturbed: Path, killed: Path) -> dict:
    """How many values there are, and how many of them the killed run ever wrote differently."""
    expected, found = values(undisturbed), values(killed)
    different = [at for at in expected.keys() | found.keys() if expected.get(at) != found.get(at)]
    again = sum(1 for line in found.values() if len(line) > 1)
    first = [f'{name} of step {step}' for step, name in sorted(different)[:5]]
    return dict(values=len(expected), different=len(different), ambiguous=again, first=first)


if __name__ == '__main__':
    main()
