"""A run's predict function for jax alone: StableHLO in one file, weights and a README beside it."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export

from t5x_lite import __version__
from t5x_lite.errors import ConfigError, nearest
from t5x_lite.interop import exchange, files
from t5x_lite.model import heads, transformer
from t5x_lite.model.backends import Dense
from t5x_lite.model.matmuls import Float
from t5x_lite.objectives import similarity

FUNCTION = 'predict.jax'
PLATFORMS = ('cpu', 'tpu', 'cuda')
EMBEDDING, NEXT = 'embedding', 'next'  # what can be asked for beside heads
POOLS = {**{name: similarity.POOLS[name] for name in ('cls', 'mean', 'last')}, 'none': None}
VECTORS = (heads.SentenceHead, heads.SimilarityHead)


class Predict(NamedTuple):
    """An output of a model: `of(model, hidden, mask_BxL)`, from the hidden states of a stack."""

    stack: str
    of: Callable
    told: str
    every_layer: bool = False

    def __call__(self, model, tokens_BxL, mask_BxL, types_BxL=None):
        if self.stack == 'decoder':
            hidden, _ = model.decode(tokens_BxL, segments=mask_BxL)
        else:
            every = dict(every_layer=self.every_layer)
            hidden = model.encode(tokens_BxL, segments=mask_BxL, types=types_BxL, **every)
        return self.of(model, hidden, mask_BxL)


def export_function(
    run: Path, target: Path, *, head: str, pool: str | None = None, step: int | None = None
) -> str:
    """Writes a run's predict function and its weights; what was written.

    The function maps (weights, tokens [B, L], mask [B, L]) to an output, and takes any B and L that
    the model's positions know; a model that tells sentences apart takes their types [B, L] too.
    `head` is one of the run's heads, 'embedding' (a unit vector of each row) or 'next' (scores of
    the next token). `pool` makes one vector of a row; None takes what the run's own loss has.

    Raises:
      ConfigError: no run, a folder that is not empty, an output that the model has not.
      RunError: a checkpoint that is missing or damaged.
    """
    own = exchange.architecture_of(run)
    losses = _losses(run)
    predict = chosen(own, losses, head, pool)
    exchange.check_free(target)
    found, params = exchange.read_run(run, own, step)
    params = own.adapt.merged(params) if own.adapt is not None else params
    arrays = flatten_dict(params, sep='/')
    exported, used = serialised(own, predict, {p: x.shape for p, x in arrays.items()})
    with exchange.written_whole(target) as new:
        (new / FUNCTION).write_bytes(exported.serialize())
        shapes = {path: arrays[path].shape for path in used}
        files.write_folder(new, shapes, lambda p: np.asarray(arrays[p]), shard=sys.maxsize)
        exchange.write_tokenizer(run, new)
        text = readme(own.model, predict, f'step {found} of {run.resolve().name}')
        (new / 'README.md').write_text(text, encoding='utf-8')
    size = sum(arrays[path].size for path in used)
    return f'step {found} of {run}, {predict.told}, {size:,} parameters: {target.resolve()}'


def _losses(run: Path) -> dict[str, Any]:
    """The losses of a trained run by the names of their terms; none of an imported model."""
    from t5x_lite import config

    if not (run / 'experiment.py').is_file():
        return {}
    streams = config.load(run / 'experiment.py').experiment.streams.values()
    return {name: term.loss for s in streams for name, term in s.objective.terms.items()}


def chosen(own, losses: Mapping[str, Any], name: str, pool: str | None = None) -> Predict:
    """The output of that name; ConfigError if the model has it not, or how to pool is unknown."""
    known = {n: head for n, head in own.heads.items() if n not in own.parts}
    if name == NEXT:
        return _next_token(own.model)
    if name == EMBEDDING:
        loss = next((x for x in losses.values() if hasattr(x, 'views')), None)
        return _vectors(own.model, name, loss, pool)
    if name not in known:
        names = [*known, EMBEDDING, NEXT]
        raise ConfigError(f'--head {name}: the run has no such head; {nearest(name, names)}')
    loss, value = losses.get(name), known[name]
    if isinstance(value, heads.MaskedLMHead):
        score = lambda model, x_BxLxD, mask_BxL: model.heads[name](x_BxLxD, model)
        return _token_scores(own.model, _stack(own.model, loss), score, 'each masked token')
    if isinstance(value, VECTORS):
        return _vectors(own.model, name, loss, pool)
    if not isinstance(value, heads.ClassifierHead):
        raise ConfigError(
            f'--head {name}: {type(value).__name__} gives no scores and no vectors; '
            f'choose {EMBEDDING} or {NEXT}'
        )
    return _classes(own.model, name, value.labels, loss, _pool(name, loss, pool))


def _pool(name: str, loss, chosen: str | None) -> Callable | None:
    """What makes one vector of a row; None where each token has its own scores."""
    if chosen is not None:
        return POOLS[chosen]
    if loss is None:
        raise ConfigError(
            f'--head {name}: the run does not say how one vector is made of a row; '
            f'say --pool {", ".join(POOLS)} (none: each token by itself)'
        )
    return getattr(loss, 'pool', None)


def _stack(model, loss) -> str:
    """The stack that a loss reads; a decoder must stand alone."""
    stack = getattr(loss, 'stack', None) or getattr(loss, 'side', None) or model.stacks[0]
    if stack == 'decoder' and model.encoder_layers:
        raise ConfigError(
            '--head: reads a decoder behind an encoder, which needs two texts; export that run '
            'for transformers (ckpt export)'
        )
    return stack


def _next_token(model) -> Predict:
    if 'decoder' not in model.stacks or model.encoder_layers:
        raise ConfigError(
            f'--head {NEXT}: needs a decoder that stands alone, the model has '
            f'{" and ".join(model.stacks)}; choose {EMBEDDING} or one of its heads'
        )
    score = lambda model, x_BxLxD, mask_BxL: model.logits(x_BxLxD)
    return _token_scores(model, 'decoder', score, 'the token after each')


def _token_scores(model, stack: str, score: Callable, of: str) -> Predict:
    """Scores over the vocabulary, without the rows that pad its table."""
    used = lambda *args: score(*args)[..., : model.vocab]
    return Predict(stack, used, f'scores of {of} [B, L, {model.vocab}]')


def _vectors(model, name: str, loss, chosen: str | None) -> Predict:
    if 'encoder' not in model.stacks:
        raise ConfigError(f'--head {name}: needs an encoder, the model has encoder_layers=0')
    pool = _pool(name, loss, chosen)
    if pool is None:
        raise ConfigError(f'--head {name}: a vector of each row needs --pool cls, mean or last')

    def of(model, hidden, mask_BxL):
        x_BxD = pool(hidden, mask_BxL > 0)
        return similarity.normalise_rows(x_BxD if name == EMBEDDING else model.heads[name](x_BxD))

    return Predict('encoder', of, 'a unit vector of each row [B, D]', similarity.every_layer(pool))


def _classes(model, name: str, labels: int, loss, pool: Callable | None) -> Predict:
    def of(model, x_BxLxD, mask_BxL):
        return model.heads[name](x_BxLxD if pool is None else pool(x_BxLxD, mask_BxL > 0))

    what = f'each token [B, L, {labels}]' if pool is None else f'each row [B, {labels}]'
    return Predict(_stack(model, loss), of, f'scores of {what}')


def serialised(own, predict: Predict, shapes: Mapping[str, tuple]) -> tuple[Any, list[str]]:
    """(the exported function, the paths of the weights it reads), for float32 weights."""
    model = dataclasses.replace(own.model, remat='none', attention=Dense(), matmul=Float())
    graph = nnx.graphdef(jax.eval_shape(lambda: transformer.build(model, own.heads)))

    def function(params, *inputs):
        rest = {p: np.broadcast_to(np.float32(0), s) for p, s in shapes.items() if p not in params}
        return predict(nnx.merge(graph, unflatten_dict({**rest, **params}, sep='/')), *inputs)

    def lowered(paths, shape, platforms):
        like = {path: jax.ShapeDtypeStruct(shapes[path], np.float32) for path in paths}
        inputs = [jax.ShapeDtypeStruct(shape, np.int32)] * len(_names(model, predict))
        return export.export(jax.jit(function), platforms=platforms)(like, *inputs)

    # Of fixed shapes jax tells which weights are read; of symbolic ones it keeps them all.
    kept = lowered(shapes, (1, 2), PLATFORMS[:1]).module_kept_var_idx
    used = [path for i, path in enumerate(sorted(shapes)) if i in kept]
    return lowered(used, _any_rows(model), PLATFORMS), used


def _any_rows(model) -> tuple:
    """A batch [b, l] of any size, but no longer than the positions know."""
    longest = model.positions.max_length
    return export.symbolic_shape('b, l', constraints=[f'l <= {longest}'] if longest else [])


def _names(model, predict: Predict) -> tuple[str, ...]:
    typed = model.types > 1 and predict.stack == 'encoder'
    return ('tokens', 'mask', 'types') if typed else ('tokens', 'mask')


def readme(model, predict: Predict, source: str) -> str:
    """How the folder is used: its code runs as it stands, with jax and safetensors alone."""
    names = _names(model, predict)
    longest = model.positions.max_length
    typed = 'types' in names
    types = 'types = np.zeros_like(tokens)\n' if typed else ''
    told = '- `types` [B, L]: 0 for the first sentence, 1 for the second.\n' if typed else ''
    return f"""# {FUNCTION}: {predict.told}

From {source}. Needs `jax` and `safetensors` alone, on {', '.join(PLATFORMS)}:

```python
import jax, jax.export, numpy as np
from safetensors.numpy import load_file
predict = jax.jit(jax.export.deserialize(bytearray(open('{FUNCTION}', 'rb').read())).call)
tokens, mask = np.array([[3, 5, 4, 0]], np.int32), np.array([[1, 1, 1, 0]], np.int32)
{types}output = predict(load_file('{files.WHOLE}'), {', '.join(names)})
```

- `tokens` [B, L]: ids below {model.vocab:,}, framed as in training; any B, \
{'any L' if longest is None else f'L up to {longest}'}. Each shape is compiled once.
- `mask` [B, L]: 1 for a token, 0 for padding behind it.
{told}- `output`: {predict.told}, float32.

Written by t5x_lite {__version__} with jax {jax.__version__}. Later versions of jax read such a file
for six months at least; after that, export the run again.
"""


def run(options) -> None:
    """`t5x-lite ckpt export-jax`."""
    chosen = dict(head=options.head, pool=options.pool, step=options.step)
    print(export_function(options.source, options.to, **chosen))
