"""Speed of a preset's jitted train step on this device, alone or beside transformers' step."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import json
import pathlib
import statistics
import sys

import jax

from benchmarks import alone, peer, record
from benchmarks.random_tokens import add_experiment, make_experiment, positive, random_batch
from benchmarks.timing import Matmul, Took, TrainStep, alternate, summary
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Experiment
from t5x_lite.flops import train_step_flops


def measure(options, load: float) -> dict:
    """Everything that was measured, as one record; `load` is that before the run."""
    experiment = make_experiment(options)
    ((name, stream),) = experiment.streams.items()
    memory = {}
    if options.peer:
        peer.check(experiment)
        memory = {kind: alone.run(kind, options) for kind in ('t5x_lite', *peer.COMPILERS)}
    batch = random_batch(stream, experiment.model.vocab)
    ours = TrainStep(experiment, {name: batch})
    found = {
        'preset': options.preset,
        'objective': name,
        'set': options.set,
        'dtype': experiment.model.dtype,
        'batch': stream.batch_size,
        'lengths': dict(stream.lengths),
        'parameters': ours.parameters,
        'compile_seconds': ours.compile_seconds,
        'host_ms': ours.host_ms(),
    }
    found |= record.peak_memory()  # before the others take theirs
    size = options.matmul or (2048 if jax.default_backend() == 'cpu' else 8192)
    matmul = Matmul(size, experiment.model.dtype)
    contestants = {'matmul': matmul, 't5x_lite': ours}
    if options.peer:
        kinds = peer.COMPILERS.items()
        contestants |= {k: peer.TransformersStep(experiment, batch, make) for k, make in kinds}
    took = alternate(contestants, options.rounds, options.steps)
    fastest = min(round_.wall for round_ in took['matmul'])
    found |= speed(experiment, took['t5x_lite'], matmul, fastest)
    if options.peer:
        peers = {
            kind: contestants[kind].describe() | summary(took[kind]) | {'alone': memory[kind]}
            for kind in peer.COMPILERS
        }
        found |= {'alone': memory['t5x_lite']} | compared(found, peers, record.quiet(load))
    return found


def compared(ours: dict, peers: dict, quiet: bool) -> dict:
    """The peers, which of them is faster, and its time and memory over ours.

    No quotient of times where the machine was not quiet.
    """
    faster = min(peers, key=lambda kind: peers[kind]['step_ms'])
    leaner = min(peer['alone']['memory_bytes'] for peer in peers.values())
    return {
        'peers': peers,
        'faster_peer': faster if quiet else None,
        'ratio': peers[faster]['step_ms'] / ours['step_ms'] if quiet else None,
        'leaner_peer_bytes': leaner,
    }


def speed(experiment: Experiment, rounds: list[Took], matmul: Matmul, fastest: float) -> dict:
    """Step time, and what it says of tokens and FLOPs; `fastest` is of one `matmul`, in seconds."""
    median = statistics.median(took.wall for took in rounds)
    flops, tokens = train_step_flops(experiment), experiment.tokens_per_step
    peak = matmul.flops / fastest
    return summary(rounds) | {
        'tokens_per_step': tokens,
        'tokens_per_second': tokens / median,
        'flops_per_step': flops,
        'flops_per_second': flops / median,
        'peak_flops_per_second': peak,
        'peak_matmul': matmul.shape,
        'mfu': flops / median / peak,
    }


def table(found: dict) -> str:
    """The record's main figures for people."""
    rounds = found['round_ms']
    lines = {
        'model': f'{found["preset"]} {" ".join(found["set"])}, '
        f'{found["parameters"] / 1e6:.1f} M parameters, {found["dtype"]}',
        'batch': f'{found["objective"]}, {found["batch"]} rows of {found["lengths"]}',
        'device': found['device'],
        'step': f'{found["step_ms"]:.2f} ms ({min(rounds):.2f} to {max(rounds):.2f}), '
        f'{found["cpu_seconds"]:.3f} CPU s',
        'tokens/s': f'{found["tokens_per_second"]:,.0f}',
        'FLOPs': f'{found["flops_per_step"]:.4g}, {found["flops_per_second"]:.4g} a second',
        'MFU': f'{found["mfu"]:.1%} of {found["peak_flops_per_second"]:.4g} a second '
        f'({found["peak_matmul"]})',
        'memory': f'{found["memory_bytes"] / 2**30:.2f} GiB ({found["memory_is"]})',
        'compile': f'{found["compile_seconds"]:.1f} s',
        'host': f'{found["host_ms"]:.2f} ms until the call returns',
    }
    shown = [f'{name:13}{text}' for name, text in lines.items()]
    return '\n'.join(shown + (peers_table(found) if 'peers' in found else []))


def peers_table(found: dict) -> list[str]:
    """Lines of the peers: their times, and each side's memory in a process of its own."""
    lines = []
    for kind, other in found['peers'].items():
        rounds = other['round_ms']
        lines.append(
            f'{kind:13}{other["step_ms"]:.2f} ms ({min(rounds):.2f} to {max(rounds):.2f}), '
            f'{other["alone"]["memory_bytes"] / 2**30:.2f} GiB alone'
        )
    ours = f'{found["alone"]["memory_bytes"] / 2**30:.2f} GiB alone'
    if found['ratio'] is None:
        why = f'load {found["load_before"]} before the run, above {record.QUIET}'
        return [*lines, f'ours         {ours}; no quotient of times: {why}']
    return [
        *lines,
        f'ours         {ours}; {found["ratio"]:.2f} x as fast as {found["faster_peer"]}',
    ]


def parse(arguments) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.step', description=__doc__)
    add_experiment(parser)
    parser.add_argument('--rounds', type=positive, default=7)
    parser.add_argument('--steps', type=positive, default=5, help='timed in each round')
    parser.add_argument('--matmul', type=positive, help='n: the peak is of n x n products')
    parser.add_argument('--peer', choices=['transformers'], help='run it too, in turns')
    parser.add_argument('--json', type=pathlib.Path, metavar='FILE', help='write the record there')
    return parser.parse_args(arguments)


def main(arguments=None) -> None:
    load = record.load()
    options = parse(arguments)
    jax.config.update('jax_enable_compilation_cache', False)
    try:
        if options.json and not options.json.parent.is_dir():
            raise ConfigError(f'--json {options.json}: there is no folder {options.json.parent}')
        found = measure(options, load)
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    found |= record.of_run('step', sys.argv[1:] if arguments is None else arguments, load)
    line = json.dumps(found)
    print(table(found), line, sep='\n')
    if options.json:
        options.json.write_text(line + '\n')


if __name__ == '__main__':
    main()
