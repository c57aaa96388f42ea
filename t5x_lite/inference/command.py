"""`t5x-lite generate`, `fill`, `embed` and `infer`: options to verbs, results to the terminal."""
# SPDX-License-Identifier: Apache-2.0

import json

from t5x_lite.errors import ConfigError
from t5x_lite.inference import lines
from t5x_lite.inference.classify import Classify
from t5x_lite.inference.embed import Embed
from t5x_lite.inference.fill import Fill
from t5x_lite.inference.generate import Generate
from t5x_lite.inference.opened import Opened
from t5x_lite.inference.score import Score
from t5x_lite.inference.verbs import Verb, run_all
from t5x_lite.model.sampling import GREEDY, Beam, Sampling
from t5x_lite.sharding import MeshShape


def run(options) -> None:
    """One of the commands.

    Raises:
      ConfigError: bad input. RunError: lines of a file that could not be used.
    """
    verb = VERBS[options.mode](options)
    shard = _shard(options.shard) if options.command == 'infer' else None
    opened = Opened(options.run, options.step, MeshShape(), options.batch_size)
    if options.command == 'infer':
        files = options.input, options.output
        print(lines.infer(opened, verb, *files, part_size=options.part_size, shard=shard))
        return
    found = run_all(verb, opened, options.texts)
    for text, result in zip(options.texts, found, strict=True):
        print('\n'.join(SHOWN[options.command](text, result)))


def _shard(text: str) -> lines.Shard:
    index, _, count = text.partition('/')
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ConfigError(f'--shard {text}: must be I/N with I below N, such as 0/4')
    return lines.Shard(int(index), int(count))


def _generate(options) -> Verb:
    draws = {'temperature': options.temperature, 'top_k': options.top_k, 'top_p': options.top_p}
    draws = {name: value for name, value in draws.items() if value is not None}
    if options.beam is not None:
        if draws:
            raise ConfigError(f'--beam does not go with {", ".join(draws)}; leave one out')
        how = Beam(size=options.beam, alpha=options.alpha, returned=options.samples)
    else:
        how = Sampling(**draws, samples=options.samples) if draws else _greedy(options.samples)
    own = dict(length=options.length, stops=tuple(options.stop), seed=options.seed)
    return Generate(how=how, **own)


def _greedy(samples: int) -> Sampling:
    return GREEDY if samples == 1 else Sampling(samples=samples)


def _embed(options) -> Verb:
    return Embed(pool=options.pool, side=options.side, max_length=options.max_length)


VERBS = {
    'generate': _generate,
    'score': lambda options: Score(
        eos=not options.no_eos, within_word=options.within_word, head=options.head
    ),
    'classify': lambda options: Classify(stream=options.stream),
    'fill': lambda options: Fill(top=options.top, head=options.head),
    'embed': _embed,
}


def _continued(text: str, result: dict):
    for one in (result, *result.get('more', ())):
        yield f'{text} |{one["text"]}'
        yield f'  {len(one["tokens"])} tokens, score {one["score"]:.3f}'


def _filled(text: str, result: dict):
    yield result['text']
    for number, choices in enumerate(result['masks']):
        named = ', '.join(f'{choice["token"]} {choice["p"]:.3f}' for choice in choices)
        yield f'  mask {number}: {named}'


def _vector(text: str, result: dict):
    yield json.dumps({'text': text} | result, ensure_ascii=False)


SHOWN = {'generate': _continued, 'fill': _filled, 'embed': _vector}
