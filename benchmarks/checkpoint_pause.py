"""What a save costs the training loop: how long it is held up, how much slower steps are then."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import contextlib
import datetime
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax

from t5x_lite import beginning, config, train
from t5x_lite.progress import Reporter
from t5x_lite.stopwatch import Stopwatch


def main() -> None:
    options = parse()
    load = os.getloadavg()[0]
    experiment = config.load(options.config, options.set).experiment
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        parts = stack, Reporter(experiment.steps), False, Stopwatch()
        run = beginning.start(experiment, folder, *parts)
        loop = Loop(run)
        loop.steps(options.between)
        saves = [measured(loop, options.between, folder) for _ in range(options.saves)]
        size = sum(x.nbytes for x in jax.tree.leaves(loop.state))
    record = dict(
        command=f'python -m benchmarks.checkpoint_pause {shlex.join(sys.argv[1:])}',
        date=datetime.date.today().isoformat(),
        device=f'{jax.device_count()} x {jax.devices()[0].device_kind}',
        cores=os.cpu_count(),
        versions={'python': platform.python_version(), 'jax': jax.__version__},
        load_before=load,
        state_mib=size / 2**20,
        saves=saves,
    )
    for name in saves[0]:
        record[name] = statistics.median(save[name] for save in saves)
    record['held_share'] = record['held_s'] / record['save_s']
    record['lost_share'] = record['lost_s'] / record['save_s']
    if options.record:
        options.record.write_text(json.dumps(record, indent=1) + '\n')
    ms = lambda name: f'{1e3 * record[name]:.0f} ms'
    print(
        f'state {record["state_mib"]:.0f} MiB, a step {ms("step_s")}; a save is on the disk after '
        f'{ms("save_s")}, holds up the loop for {ms("held_s")} ({record["held_share"]:.1%}), and '
        f'costs it {ms("lost_s")} with slower steps beside it ({record["lost_share"]:.1%})'
    )


class Loop:
    """Steps of a run, one after the other, each waited for as the training loop does."""

    def __init__(self, run: beginning.Run):
        self.run, self.state, self.now = run._replace(state=None), run.state, 0

    def steps(self, count: int, until=lambda: False) -> list[float]:
        """Seconds of each step; ends after `count`, or sooner if `until` says so."""
        times = []
        while len(times) < count and not until():
            began = time.monotonic()
            batches = train.next_batches(self.run)
            self.state, means = self.run.train_step(self.state, batches)
            for rows in self.run.loaders.values():
                rows.prefetch()
            self.run.window.push(means)
            jax.block_until_ready(means)
            times.append(time.monotonic() - began)
            self.now += 1
        return times


def measured(loop: Loop, between: int, folder: Path) -> dict[str, float]:
    """One save: seconds in the call, until it is on the disk, and what the loop lost in all."""
    quiet = statistics.median(loop.steps(between))
    done = threading.Event()
    committed = []

    def watch(path: Path) -> None:
        while not path.is_dir() and not done.is_set():
            time.sleep(0.002)
        committed.append(time.monotonic())

    watching = threading.Thread(target=watch, args=(folder / 'checkpoints' / str(loop.now),))
    watching.start()
    began = time.monotonic()
    train.save(loop.now, loop.state, loop.run, {})
    held = time.monotonic() - began
    beside = loop.steps(10_000, until=lambda: bool(committed))
    loop.run.checkpoints.wait()
    done.set()
    watching.join()
    return dict(
        step_s=quiet,
        held_s=held,
        save_s=committed[0] - began,
        lost_s=held + sum(beside) - quiet * len(beside),
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.checkpoint_pause', description=__doc__
    )
    parser.add_argument('config', help='an experiment')
    parser.add_argument('--set', action='append', default=[], help='as of t5x-lite train')
    parser.add_argument('--saves', type=int, default=7, help='default: %(default)s')
    parser.add_argument('--between', type=int, default=8, help='quiet steps before each save')
    parser.add_argument('--folder', type=Path, help='where the run is written and deleted again')
    parser.add_argument('--record', type=Path, help='a JSON file for the result')
    return parser.parse_args()


if __name__ == '__main__':
    main()
