"""What is timed in turns: the compiled train step, and matrix products for the device's peak."""
# SPDX-License-Identifier: Apache-2.0

import statistics
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import record
from t5x_lite import sharding, step
from t5x_lite.experiment import Experiment


class Compiled(NamedTuple):
    """A train step, and the seconds that tracing, lowering and compiling took."""

    step: Any
    seconds: float


def compiled_step(experiment: Experiment) -> Compiled:
    mesh = sharding.make_mesh(experiment.mesh)
    shapes = step.abstract_state(experiment, mesh), step.abstract_batches(experiment, mesh)
    began = time.perf_counter()
    compiled = step.make_train_step(experiment, mesh).lower(*shapes).compile()
    return Compiled(compiled, time.perf_counter() - began)


class TrainStep:
    """The experiment's compiled train step, its state, and one batch that it sees every time."""

    def __init__(self, experiment: Experiment, batches: dict, compiled: Compiled | None = None):
        mesh = sharding.make_mesh(experiment.mesh)
        self.compiled, self.compile_seconds = compiled or compiled_step(experiment)
        self.state = step.make_init(experiment, mesh)()
        place = lambda batch: sharding.put_batch(batch, mesh, experiment.rules)
        self.batches = {name: place(batch) for name, batch in batches.items()}
        self.parameters = sum(p.size for p in jax.tree.leaves(self.state.params))

    def dispatch(self) -> None:
        """One update; it still runs when this returns."""
        self.update()

    def update(self):
        """One update and its metrics, {name: Mean}."""
        self.state, means = self.compiled(self.state, self.batches)
        return means

    def wait(self) -> None:
        """Returns when all updates are done."""
        jax.block_until_ready(self.state)

    def peak_memory(self) -> dict:
        return record.peak_memory()

    def host_ms(self, calls: int = 20) -> float:
        """Milliseconds until a call returns while the device has nothing else to do; the median."""
        times = []
        for _ in range(calls):
            self.wait()
            began = time.perf_counter()
            self.dispatch()
            times.append(1e3 * (time.perf_counter() - began))
        self.wait()
        return statistics.median(times)


class Matmul:
    """Products [n, n] x [n, n] on every device, each of the result of the one before."""

    def __init__(self, size: int, dtype: str):
        mesh = sharding.make_mesh()
        rows, whole = sharding.batch_sharding(mesh), sharding.whole(mesh)
        shape = (size * jax.device_count(), size)
        normal = lambda shape: jax.random.normal(jax.random.key(0), shape, dtype)
        self.x = jax.jit(lambda: normal(shape), out_shardings=rows)()
        self.y = jax.jit(lambda: normal((size, size)) * size**-0.5, out_shardings=whole)()
        self.product = jax.jit(jnp.matmul, out_shardings=rows, donate_argnums=0)
        self.flops = 2 * shape[0] * size * size
        self.shape = f'{list(shape)} x {[size, size]} {dtype}'

    def dispatch(self) -> None:
        self.x = self.product(self.x, self.y)

    def wait(self) -> None:
        self.x.block_until_ready()


class Took(NamedTuple):
    """Seconds per step: by the clock, and of all this process's threads together."""

    wall: float
    cpu: float


def alternate(contestants: dict, rounds: int, steps: int) -> dict[str, list[Took]]:
    """What each contestant took in each round; in a round they run one after another."""
    took = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            contestant.dispatch()  # not timed: caches and clocks are another contestant's
            contestant.wait()
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(steps):
                contestant.dispatch()
            contestant.wait()
            spent = time.perf_counter() - wall, time.process_time() - cpu
            took[name].append(Took(*(seconds / steps for seconds in spent)))
    return took


def summary(rounds: list[Took]) -> dict:
    """Medians over the rounds, and each round's own."""
    wall, cpu = zip(*rounds, strict=True)
    return {
        'step_ms': 1e3 * statistics.median(wall),
        'round_ms': [1e3 * s for s in wall],
        'cpu_seconds': statistics.median(cpu),
    }
