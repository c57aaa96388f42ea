"""Greedy decoding on the cache, in turns with transformers' generate of the same model."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import shlex
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import peer
from t5x_lite.model import decode, presets, transformer
from t5x_lite.model.positions import Learned


def main() -> None:
    options = parse()
    load = os.getloadavg()[0]
    model = make(options)
    prompt = np.random.default_rng(0).integers(1, options.vocab, (options.batch, options.prompt))
    contestants = {'ours': Ours(model, prompt, options.length)}
    if options.peer:
        contestants['transformers'] = Theirs(model.config, prompt, options.length)
    seconds = {name: [] for name in contestants}
    for _ in range(options.rounds + 1):  # the first one compiles and warms up
        for name, run in contestants.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    tokens = options.batch * options.length
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    record = {
        'ms_per_token': {name: 1e3 * s / options.length for name, s in medians.items()},
        'tokens_per_second': {name: tokens / s for name, s in medians.items()},
        'step_ms_at': positions(model, prompt, options),
        'load_before': load,
        'command': shlex.join(['python', '-m', 'benchmarks.decoding', *sys.argv[1:]]),
        'date': datetime.date.today().isoformat(),
        'versions': {'python': platform.python_version(), 'jax': jax.__version__},
        'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}, {os.cpu_count()} cores',
    }
    if options.peer:
        import torch
        import transformers

        record['versions'] |= {'torch': torch.__version__, 'transformers': transformers.__version__}
        record['ratio'] = medians['transformers'] / medians['ours']
    print(json.dumps(record, indent=1))
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + '\n')


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.decoding', description=__doc__)
    for name, default in dict(
        embed=256, layers=4, vocab=32000, batch=8, prompt=32, length=224, rounds=5
    ).items():
        parser.add_argument(f'--{name}', type=int, default=default, help='default: %(default)s')
    parser.add_argument('--peer', action='store_true', help='transformers, in the same turns')
    parser.add_argument('--json', type=pathlib.Path, help='file for the record')
    return parser.parse_args()


def make(options):
    """A GPT-2 of these sizes with random weights."""
    config = dataclasses.replace(
        presets.gpt2_small(),
        vocab=options.vocab,
        embed=options.embed,
        heads=options.embed // 64,
        mlp=4 * options.embed,
        decoder_layers=options.layers,
        positions=Learned(options.prompt + options.length),
        dropout=0.0,
        unroll=options.layers if jax.default_backend() == 'cpu' else 1,
    )
    return transformer.build(config)


class Ours:
    """A call decodes `length` tokens after each prompt."""

    def __init__(self, model, prompt_BxP, length: int):
        run = lambda model, ids: decode.generate(model, ids, length, eos=None).tokens_BxSxL
        self._run, self._args = jax.jit(run), (model, jnp.asarray(prompt_BxP))

    def __call__(self) -> None:
        self._run(*self._args).block_until_ready()


class Theirs:
    """The same by transformers' generate, eager PyTorch with its default attention and cache."""

    def __init__(self, config, prompt_BxP, length: int):
        import torch

        self._torch, self._model = torch, peer.model_of(config).eval()
        self._ids = torch.tensor(prompt_BxP)
        self._settings = dict(
            max_new_tokens=length,
            min_new_tokens=length,
            do_sample=False,
            use_cache=True,
            attention_mask=torch.ones_like(self._ids),
            pad_token_id=0,
        )

    def __call__(self) -> None:
        with self._torch.inference_mode():
            self._model.generate(self._ids, **self._settings)


def positions(model, prompt_BxP, options) -> dict[int, float]:
    """Milliseconds of one step that adds a token at the first, a middle and the last position."""
    size = options.prompt + options.length

    @jax.jit
    def step(model, token_B, cache):
        hidden, cache = model.decode(token_B[:, None], cache=cache)
        return model.logits(hidden)[:, 0].argmax(-1), cache

    filled = jax.jit(lambda model: model.start_cache(options.batch, size))(model)
    token_B, found = jnp.asarray(prompt_BxP[:, 0]), {}
    caches = {at: filled._replace(length=jnp.int32(at)) for at in (1, size // 2, size - 1)}
    times = {at: [] for at in caches}
    for _ in range(41):
        for at, cache in caches.items():
            began = time.perf_counter()
            jax.block_until_ready(step(model, token_B, cache))
            times[at].append(time.perf_counter() - began)
    for at, each in times.items():
        found[at] = 1e3 * statistics.median(each[1:])
    return found


if __name__ == '__main__':
    main()
