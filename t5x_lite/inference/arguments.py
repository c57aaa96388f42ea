"""Options of `t5x-lite generate`, `fill`, `embed` and `infer`."""
# SPDX-License-Identifier: Apache-2.0

import argparse
from collections.abc import Callable
from pathlib import Path

MODES = ('generate', 'score', 'classify', 'fill', 'embed')


def add(commands, folder: Callable, whole: Callable) -> None:
    """Adds the commands; `folder` reads a path, `whole` a number of 1 or more."""
    for mode, told, text, add_own in (
        ('generate', 'what a decoder writes for prompts', 'PROMPT', _add_decoding),
        ('fill', 'what a masked LM puts for each [MASK] of a text', 'TEXT', _add_fill),
        ('embed', 'a vector for each text, as a line of JSON', 'TEXT', _add_embed),
    ):
        command = commands.add_parser(mode, help=told)
        _add_run(command, folder, whole)
        command.add_argument('texts', nargs='+', metavar=text)
        add_own(command, whole)
        command.set_defaults(command=mode, mode=mode)

    command = commands.add_parser('infer', help='one of them for every line of a file')
    _add_run(command, folder, whole)
    command.add_argument('--mode', required=True, choices=MODES)
    command.add_argument('--input', required=True, type=Path, metavar='F.jsonl')
    command.add_argument('--output', required=True, type=Path, metavar='DIR', help='new, or go on')
    command.add_argument(
        '--part-size', type=whole, default=1000, metavar='N', help='lines a file (%(default)s)'
    )
    command.add_argument(
        '--shard', default='0/1', metavar='I/N', help='this machine does every Nth part, from I on'
    )
    _add_decoding(command, whole)
    _add_score(command)
    group = command.add_argument_group('classify')
    group.add_argument('--stream', metavar='NAME', help='of a run with several that predict')
    _add_fill(command, whole)
    _add_embed(command, whole)
    command.set_defaults(command='infer')


def _add_run(command: argparse.ArgumentParser, folder: Callable, whole: Callable) -> None:
    command.add_argument('run', type=folder, help='folder of a run, or of an imported model')
    command.add_argument('--step', type=int, help='which checkpoint (default: the newest)')
    command.add_argument(
        '--batch-size', type=whole, default=32, metavar='N', help='rows at once (%(default)s)'
    )
    command.add_argument('--tfds_data_dir', help='folder of prepared TFDS datasets')


def _add_decoding(command: argparse.ArgumentParser, whole: Callable) -> None:
    group = command.add_argument_group('generate')
    group.add_argument('--length', type=whole, default=64, help='tokens at most (%(default)s)')
    group.add_argument('--temperature', type=float, metavar='T', help='draw (default: greedy)')
    group.add_argument('--top-k', type=whole, metavar='K', help='draw from the K likeliest')
    group.add_argument('--top-p', type=float, metavar='P', help='draw from the likeliest of sum P')
    group.add_argument('--samples', type=whole, default=1, metavar='N', help='texts a prompt')
    group.add_argument('--beam', type=whole, metavar='K', help='beam search with K hypotheses')
    group.add_argument(
        '--alpha', type=float, default=0.6, help='its length penalty (Wu et al. 2016; %(default)s)'
    )
    group.add_argument('--seed', type=int, default=0, help='of draws (%(default)s)')
    group.add_argument(
        '--stop', action='append', default=[], metavar='TEXT', help='ends a text in front of it'
    )


def _add_score(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group('score')
    group.add_argument('--no-eos', action='store_true', help="leave the text's end unscored")
    group.add_argument(
        '--within-word', action='store_true', help='a masked LM: hide later pieces of the word too'
    )


def _add_fill(command: argparse.ArgumentParser, whole: Callable) -> None:
    group = command.add_argument_group('fill, and score by a masked LM')
    group.add_argument('--head', metavar='NAME', help='of a model with several masked LM heads')
    group.add_argument('--top', type=whole, default=5, metavar='K', help='tokens a mask')


def _add_embed(command: argparse.ArgumentParser, whole: Callable) -> None:
    group = command.add_argument_group('embed')
    group.add_argument('--pool', help="cls, mean, last, ... (default: the run's, else mean)")
    group.add_argument('--side', type=int, default=0, help='of a dual encoder: 0 queries, 1 keys')
    group.add_argument('--max-length', type=whole, metavar='N', help='cut longer texts')
