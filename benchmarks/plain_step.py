"""The library's train step beside one written by hand in plain JAX: what the framework costs."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import json
import pathlib
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import plain_models, record
from benchmarks.random_tokens import add_experiment, make_experiment, positive, random_batch
from benchmarks.timing import TrainStep, alternate, summary
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Experiment

LOSSES = {
    'gpt2_small': plain_models.gpt2_loss,
    'bert_mini': plain_models.bert_loss,
    't5_1_1_small': plain_models.t5_loss,
}
TOLERANCE = 1e-5  # relative, of the first step's loss and norm of the gradients


class AdamWState(NamedTuple):
    """Weights and moments by layer, and updates done."""

    step: Any
    params: Any
    m: Any
    v: Any


class AdamW(NamedTuple):
    """AdamW with gradients of a global norm of `clip` at most; vectors are not decayed."""

    rate: float
    b1: float
    b2: float
    eps: float
    decay: float
    clip: float

    def start(self, params) -> AdamWState:
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)
        return AdamWState(jnp.int32(0), params, zeros(), zeros())

    def update(self, state: AdamWState, grads):
        """The next state, and the norm of the gradients."""
        norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads)))
        factor = jnp.minimum(1.0, self.clip / norm)
        step = state.step + 1
        of_m, of_v = (1.0 / (1.0 - jnp.float32(b) ** step) for b in (self.b1, self.b2))

        def moved(path, p, g, m, v):
            g = g * factor
            m = self.b1 * m + (1 - self.b1) * g
            v = self.b2 * v + (1 - self.b2) * g * g
            change = m * of_m / (jnp.sqrt(v * of_v) + self.eps)
            if path[-1].key not in ('bias', 'scale', 'relative_bias'):
                change = change + self.decay * p
            return p - self.rate * change, m, v

        each = jax.tree_util.tree_map_with_path(moved, state.params, grads, state.m, state.v)
        parts = jax.tree.transpose(jax.tree.structure(state.params), None, each)
        return AdamWState(step, *parts), norm


def by_layer(params):
    """The library's weights as this step holds them: each stack's layers as a list; copies."""
    if not isinstance(params, dict):
        return jnp.array(np.array(params))
    out = {name: by_layer(value) for name, value in params.items() if name != 'blocks'}
    if 'blocks' in params:
        layers = jax.tree.leaves(params['blocks'])[0].shape[0]
        out['blocks'] = [
            jax.tree.map(lambda x: jnp.array(np.asarray(x)[i]), params['blocks'])  # noqa: B023
            for i in range(layers)
        ]
    return out


class PlainStep:
    """The compiled step of plain_models.py's model, its state, and one batch.

    Args:
      preset: a key of LOSSES.
      experiment: of that preset, with AdamW and a clip.
      params: the library's weights, nested; they are copied.
    """

    def __init__(self, preset: str, experiment: Experiment, batch, params):
        config, given = experiment.model, experiment.optimizer
        kind = config.positions
        relative = (kind.buckets, kind.max_distance) if preset == 't5_1_1_small' else ()
        sizes = plain_models.Sizes(config.heads, config.norm.eps, *relative)
        moments = given.b1, given.b2, given.eps, given.weight_decay
        adamw = AdamW(given.learning_rate, *moments, given.clip)
        loss_of = lambda params, batch: LOSSES[preset](params, batch, sizes)

        def step(state, batch):
            (loss, right), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params, batch)
            state, norm = adamw.update(state, grads)
            return state, {'loss': loss, 'right': right, 'grad_norm': norm}

        self.state = adamw.start(by_layer(params))
        self.batch = jax.tree.map(jnp.asarray, batch)
        self.compiled = jax.jit(step, donate_argnums=0).lower(self.state, self.batch).compile()
        self.parameters = sum(p.size for p in jax.tree.leaves(self.state.params))

    def update(self):
        """One update and its metrics."""
        self.state, metrics = self.compiled(self.state, self.batch)
        return metrics

    def dispatch(self) -> None:
        self.update()

    def wait(self) -> None:
        jax.block_until_ready(self.state)


def contestants(preset: str, experiment: Experiment) -> dict:
    """Both steps, from the same weights and with the same batch."""
    ((name, stream),) = experiment.streams.items()
    batch = random_batch(stream, experiment.model.vocab)
    ours = TrainStep(experiment, {name: batch})
    return {'t5x_lite': ours, 'plain': PlainStep(preset, experiment, batch, ours.state.params)}


def agree(steps: dict, updates: int) -> dict:
    """Loss, right tokens and norm of gradients of each update by both, [ours, plain].

    Raises:
      RuntimeError: the first update's differ by more than TOLERANCE.
    """
    found = {'loss': [], 'right': [], 'grad_norm': []}
    for _ in range(updates):
        means, plain = steps['t5x_lite'].update(), steps['plain'].update()
        (accuracy,) = (mean for name, mean in means.items() if name.endswith('/accuracy'))
        ours = {name: means[name].value for name in ('loss', 'grad_norm')}
        for name, value in (ours | {'right': accuracy.total}).items():
            found[name].append((float(value), float(plain[name])))
    for name, values in found.items():
        ours, plain = values[0]
        if abs(ours - plain) > TOLERANCE * abs(plain):
            raise RuntimeError(f'{name}: {ours} of the library, {plain} of the plain step')
    return found


def measure(options, load: float) -> dict:
    """Both steps in turns: times, ratios and temporaries; `load` is that before the run."""
    experiment = make_experiment(options)
    check(options.preset, experiment)
    steps = contestants(options.preset, experiment)
    first = {name: values[0] for name, values in agree(steps, 1).items()}
    took = alternate(steps, options.rounds, options.steps)
    found = {name: summary(rounds) for name, rounds in took.items()}
    for name, step in steps.items():
        found[name]['temporary_bytes'] = step.compiled.memory_analysis().temp_size_in_bytes
    ratio = lambda field: found['t5x_lite'][field] / found['plain'][field]
    return {
        'preset': options.preset,
        'set': options.set,
        'batch': options.batch,
        'lengths': dict(next(iter(experiment.streams.values())).lengths),
        'parameters': {name: step.parameters for name, step in steps.items()},
        'first_step': first,
        'steps': found,
        'cpu_ratio': ratio('cpu_seconds'),
        'wall_ratio': ratio('step_ms') if record.quiet(load) else None,
    }


def check(preset: str, experiment: Experiment) -> None:
    """ConfigError if there is no such step here."""
    if preset not in LOSSES or experiment.model.dtype != 'float32' or experiment.model.dropout:
        raise ConfigError(
            f'benchmarks.plain_step: has {", ".join(LOSSES)} in float32 without dropout; set other '
            'sizes by --set model.embed=256, and model.dropout=0.0'
        )
    if jax.device_count() != 1:
        raise ConfigError(f'benchmarks.plain_step: needs one device, not {jax.device_count()}')
    if experiment.optimizer.clip is None:
        raise ConfigError('benchmarks.plain_step: clips gradients; add --set optimizer.clip=1.0')


def table(found: dict) -> str:
    """The record's figures for people."""
    lines = [f'{found["preset"]} {" ".join(found["set"])}, load before {found["load_before"]}']
    for name, step in found['steps'].items():
        lines.append(
            f'{name:9} {step["step_ms"]:9.1f} ms, {step["cpu_seconds"]:.3f} CPU s a step, '
            f'{step["temporary_bytes"] / 2**20:,.0f} MiB of temporaries'
        )
    wall = found['wall_ratio']
    shown = 'not given: the load before was above 0.3' if wall is None else f'{wall:.3f}'
    lines.append(f'library / plain: CPU seconds {found["cpu_ratio"]:.3f}, time {shown}')
    return '\n'.join(lines)


def main(arguments=None) -> None:
    load = record.load()
    parser = argparse.ArgumentParser(prog='python -m benchmarks.plain_step', description=__doc__)
    add_experiment(parser)
    parser.add_argument('--rounds', type=positive, default=7)
    parser.add_argument('--steps', type=positive, default=5, help='timed in each round')
    parser.add_argument('--json', type=pathlib.Path, metavar='FILE', help='write the record there')
    options = parser.parse_args(arguments)
    jax.config.update('jax_enable_compilation_cache', False)
    try:
        found = measure(options, load)
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    given = sys.argv[1:] if arguments is None else arguments
    found |= record.of_run('plain_step', given, load)
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + '\n')


if __name__ == '__main__':
    main()
