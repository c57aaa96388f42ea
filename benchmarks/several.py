"""Steps of several presets: compiled side by side, then measured one after the other."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import concurrent.futures
import gc
import json
import pathlib
import shlex
import sys
import time

import jax

from benchmarks import kernel_times, peer, record
from benchmarks.random_tokens import add_experiment, make_experiment, random_batch
from benchmarks.step import speed
from benchmarks.timing import Matmul, TrainStep, alternate, compiled_step, summary
from t5x_lite.errors import ConfigError

COLUMNS = ('step_ms', 'peer_ms', 'ratio', 'GiB', 'peer GiB', 'TFLOP/s', 'of peak', 'compile s')


def read_cases(path: pathlib.Path, only: list[str]) -> dict[str, argparse.Namespace]:
    """Lines `name: options of benchmarks.step`, and `--peer`; # begins a comment."""
    parser = argparse.ArgumentParser(prog=str(path))
    add_experiment(parser)
    parser.add_argument('--peer', choices=['transformers'])
    lines = (line.partition('#')[0].strip() for line in path.read_text().splitlines())
    named = (line.partition(':') for line in lines if line)
    cases = {name: parser.parse_args(shlex.split(rest)) for name, _, rest in named}
    if missing := [name for name in only if name not in cases]:
        raise ConfigError(f'{path}: knows no case {missing[0]}; it has {", ".join(cases)}')
    return {name: cases[name] for name in only or cases}


def measure(options, compiled, args, found: dict) -> None:
    """Fills in one case: our step, its memory by the compiler, and its peers one by one."""
    experiment = make_experiment(options)
    ((name, stream),) = experiment.streams.items()
    batch = random_batch(stream, experiment.model.vocab)
    ours = TrainStep(experiment, {name: batch}, compiled)
    memory = ours.compiled.memory_analysis()
    matmul = Matmul(args.matmul, experiment.model.dtype)
    found |= {
        'options': shlex.join(f'--{k}={v}' for k, v in vars(options).items() if v),
        'parameters': ours.parameters,
        'compile_seconds': ours.compile_seconds,
        'memory_bytes': memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        'memory_is': 'arguments and temporaries, by the compiler',
    }
    took = alternate({'matmul': matmul, 'ours': ours}, args.rounds, args.steps)
    fastest = min(round_.wall for round_ in took['matmul'])
    found |= speed(experiment, took['ours'], matmul, fastest)
    if args.profile:
        kernel_times.show(kernel_times.of(ours, 3))
    if options.peer:
        found['peers'] = {}
        run_peers(experiment, batch, args, found['peers'])
        found['ratio'] = min(p['step_ms'] for p in found['peers'].values()) / found['step_ms']


def run_peers(experiment, batch, args, found: dict) -> None:
    """Each of the peer's kinds by itself, one after the other: none holds another's memory."""
    import torch

    for kind, compiler in peer.COMPILERS.items():
        torch.cuda.reset_peak_memory_stats()
        torch._dynamo.reset()
        other = peer.TransformersStep(experiment, batch, compiler)
        for _ in range(3):
            other.dispatch()
        took = alternate({kind: other}, args.rounds, args.steps)[kind]
        found[kind] = other.describe() | summary(took) | other.peak_memory()
        del other
        gc.collect()
        torch.cuda.empty_cache()


def row(found: dict) -> list[str]:
    """A line's columns, as COLUMNS."""
    gib = lambda size: f'{size / 2**30:.1f}'
    kinds = found.get('peers', {})
    other = min(kinds.values(), key=lambda kind: kind['step_ms'], default=None)
    return [
        f'{found["step_ms"]:.2f}',
        f'{other["step_ms"]:.2f}' if other else '',
        f'{found["ratio"]:.2f}' if 'ratio' in found else '',
        gib(found['memory_bytes']),
        gib(other['memory_bytes']) if other else '',
        f'{found["flops_per_second"] / 1e12:.0f}',
        f'{found["mfu"]:.1%}',
        f'{found["compile_seconds"]:.0f}',
    ]


def parse(arguments) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.several', description=__doc__)
    parser.add_argument('cases', type=pathlib.Path, help='a file such as benchmarks/h100.txt')
    parser.add_argument('--only', nargs='*', default=[], metavar='NAME')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--steps', type=int, default=5, help='timed in each round')
    parser.add_argument('--matmul', type=int, default=8192, help='n: the peak is of n x n products')
    parser.add_argument('--profile', action='store_true', help='show where a step spends its time')
    parser.add_argument('--json', type=pathlib.Path, metavar='FILE', help='write the records there')
    return parser.parse_args(arguments)


def main(arguments=None) -> None:
    args, load = parse(arguments), record.load()
    jax.config.update('jax_enable_compilation_cache', False)
    began, found = time.perf_counter(), {}
    try:
        cases = read_cases(args.cases, args.only)
        if jax.default_backend() != 'gpu' and any(one.peer for one in cases.values()):
            raise ConfigError('--peer: needs a GPU here; on a CPU use benchmarks.step')
        with concurrent.futures.ThreadPoolExecutor() as pool:
            steps = {
                name: pool.submit(compiled_step, make_experiment(options))
                for name, options in cases.items()
            }
            for name, options in cases.items():
                compiled = steps.pop(name).result()
                concurrent.futures.wait(steps.values())  # nothing else runs beside a measurement
                print(f'{name}: {time.perf_counter() - began:.0f} s', flush=True)
                found[name] = {}
                measure(options, compiled, args, found[name])
                print(' | '.join([name, *row(found[name])]), flush=True)
                del compiled
                gc.collect()
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    finally:  # also what was there when it was interrupted
        if args.json:
            of_run = record.of_run('several', arguments or sys.argv[1:], load)
            args.json.write_text(json.dumps(of_run | {'cases': found}, indent=1) + '\n')
    print(' | '.join(['case', *COLUMNS]))
    for name, one in found.items():
        print(' | '.join([name, *row(one)]))


if __name__ == '__main__':
    main()
