"""One side's train step in a process of its own: peak memory and CPU seconds a step."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import json
import pathlib
import subprocess
import sys

import jax

from benchmarks import peer, record
from benchmarks.random_tokens import add_experiment, make_experiment, positive, random_batch
from benchmarks.timing import TrainStep, alternate, summary
from t5x_lite.errors import ConfigError

KEPT = ('preset', 'objective', 'optimizer', 'batch', 'length', 'dtype')  # of step's options


def run(kind: str, options) -> dict:
    """What a new process of `kind` (`t5x_lite` or a peer) says of itself.

    Raises:
      ConfigError: it ended with an error, which it has printed.
    """
    given = {name: getattr(options, name) for name in KEPT}
    flags = [f'--{name}={value}' for name, value in given.items() if value is not None]
    flags += [f'--set={change}' for change in options.set]
    command = [sys.executable, '-m', 'benchmarks.alone', kind, *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ConfigError(f'benchmarks.alone {kind}: ended with status {done.returncode}')
    return json.loads(done.stdout.splitlines()[-1])


def measure(kind: str, options) -> dict:
    """Memory and time of `kind`; a peer's memory is less what stands in it before it begins."""
    experiment = make_experiment(options)
    ((name, stream),) = experiment.streams.items()
    batch = random_batch(stream, experiment.model.vocab)
    harness = 0
    if kind == 't5x_lite':
        contestant = TrainStep(experiment, {name: batch})
    else:
        peer.check(experiment)
        if jax.default_backend() == 'cpu':
            harness = record.rss()  # Python and JAX, of no use to the peer
        contestant = peer.TransformersStep(experiment, batch, peer.COMPILERS[kind])
    took = alternate({kind: contestant}, options.rounds, options.steps)[kind]
    found = contestant.peak_memory()
    found['memory_bytes'] -= harness
    return summary(took) | found | {'harness_bytes': harness}


def main(arguments=None) -> None:
    load = record.load()
    parser = argparse.ArgumentParser(prog='python -m benchmarks.alone', description=__doc__)
    parser.add_argument('kind', choices=['t5x_lite', *peer.COMPILERS])
    add_experiment(parser)
    parser.add_argument('--rounds', type=positive, default=2)
    parser.add_argument('--steps', type=positive, default=1, help='timed in each round')
    parser.add_argument('--json', type=pathlib.Path, metavar='FILE', help='write the record there')
    options = parser.parse_args(arguments)
    jax.config.update('jax_enable_compilation_cache', False)
    try:
        found = measure(options.kind, options)
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    found |= record.of_run('alone', sys.argv[1:] if arguments is None else arguments, load)
    line = json.dumps(found)
    print(line)
    if options.json:
        options.json.write_text(line + '\n')


if __name__ == '__main__':
    main()
