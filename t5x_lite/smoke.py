"""The tiny twin of an experiment: the same code in small, for a CPU, a minute and no network."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping

import jax

from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.model.backends import Auto
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.heads import ProjectionHead
from t5x_lite.objective import Objective
from t5x_lite.overrides import children, dotted
from t5x_lite.sharding import MeshShape
from t5x_lite.tuning.presets import GradualUnfreezing, LastLayers

STEPS = 30
EVERY = 10  # steps between evaluations, and between checkpoints
LOG_EVERY = 5
BATCH = 8
LENGTH = 64
LAYERS, EMBED, HEADS, HEAD_SIZE, MLP = 2, 64, 4, 16, 128
EVALUATOR = dict(every=EVERY, batches=4, baseline=20, count=2, prompt=16, length=32)
EVALUATOR |= dict(pairs=64, queries=64, documents=256)

TASKS = 't5x_lite.data.tasks.'  # the shipped modules; all but the bundled text need a TFDS folder
TEXT = 'corpus_en_pd'
TEXT_MIXTURES = (TEXT, 'corpus_en_pd_mix', 'austen', 'sotu', 'wiki_entities', 'wiki_topics')
TEXT_MIXTURES += ('gnome_help_en_de', 'gnome_help_en_zh')
TEXT_VOCABULARY = 8192


def shrink(experiment: Experiment, *, data_dir: bool = False) -> Experiment:
    """A copy that differs in sizes only: at most 2 layers of width 64, 30 steps of 8 short rows.

    What is smaller already stays as it is, except that a batch divides over all devices. Mixtures
    whose data is a TFDS folder are replaced by the bundled text, unless there is a `data_dir`;
    those of a user's own module stay.
    """
    steps = min(experiment.steps, STEPS)
    changes = dict(
        mesh=MeshShape(),
        microbatches=min(experiment.microbatches, 2),
        data_shards=math.gcd(experiment.data_shards, BATCH),
    )
    replaced = set() if data_dir else set(_without_data(experiment))
    rows = math.lcm(changes['data_shards'], changes['microbatches'] * jax.device_count())
    vocab = TEXT_VOCABULARY if replaced else experiment.model.vocab
    small = lambda objective: _objective(objective, vocab, steps, experiment.steps)
    streams = {
        name: dataclasses.replace(
            _stream(s, rows, TEXT if name in replaced else s.mixture, steps, experiment.steps),
            objective=small(s.objective),
        )
        for name, s in experiment.streams.items()
    }
    added = (TASKS + TEXT,) if replaced and TASKS + TEXT not in experiment.imports else ()
    return dataclasses.replace(
        experiment,
        **changes,
        trainable=_rules(experiment.trainable, steps),
        rate_factors=_rules(experiment.rate_factors, steps),
        init=None,  # other sizes than those of the weights that it names
        model=_model(experiment.model, vocab),
        streams=streams,
        optimizer=rescale(experiment.optimizer, steps, experiment.steps),
        steps=steps,
        evals={name: _evaluator(value, small) for name, value in experiment.evals.items()},
        checkpoint=_checkpoint(experiment.checkpoint),
        log_every=min(experiment.log_every, LOG_EVERY),
        imports=(*experiment.imports, *added),
    )


def _without_data(experiment: Experiment) -> Iterator[str]:
    """Names of the streams whose data is a TFDS folder that nobody named."""
    shipped = {module for module in experiment.imports if module.startswith(TASKS)}
    for name, stream in experiment.streams.items():
        text_only = set(stream.objective.converter.features) <= {'targets'}
        if shipped - {TASKS + TEXT} and stream.mixture not in TEXT_MIXTURES and text_only:
            yield name


def _model(model: ModelConfig, vocab: int) -> ModelConfig:
    changes = dict(
        vocab=vocab,
        encoder_layers=min(model.encoder_layers, LAYERS),
        decoder_layers=min(model.decoder_layers, LAYERS),
        mlp=min(model.mlp, MLP),
        unroll=None,
        dtype='float32',
        attention=Auto(),
    )
    if model.embed > EMBED:
        heads = next(n for n in (HEADS, 2, 1) if n <= model.heads)  # each divides the width
        changes |= dict(embed=EMBED, heads=heads)
        if model.kv_heads is not None:
            changes['kv_heads'] = max(1, heads * model.kv_heads // model.heads)
        if model.head_size is not None:
            changes['head_size'] = min(model.head_size, HEAD_SIZE)
    return dataclasses.replace(model, **changes)


def _stream(stream: Stream, rows: int, mixture: str, steps: int, of: int) -> Stream:
    """The stream in short rows, a multiple of `rows` of them."""
    return dataclasses.replace(
        stream,
        mixture=mixture,
        lengths=_lengths(stream),
        batch_size=rows * max(1, min(stream.batch_size, BATCH) // rows),
        weight=rescale(stream.weight, steps, of),
        rates=rescale(stream.rates, steps, of) if mixture == stream.mixture else None,
    )


def _objective(objective: Objective, vocab: int, steps: int, of: int) -> Objective:
    """The objective with schedules of fewer steps, and small teachers with weights drawn."""
    terms = {
        name: dataclasses.replace(
            term, weight=rescale(term.weight, steps, of), head=_head(term.head)
        )
        for name, term in objective.terms.items()
    }
    teachers = {
        name: dataclasses.replace(teacher, model=_model(teacher.model, vocab), init=None)
        for name, teacher in objective.teachers.items()
    }
    return dataclasses.replace(objective, terms=terms, teachers=teachers)


def _head(head):
    """The head; one that brings states to a teacher's width, to that of the small one."""
    if not isinstance(head, ProjectionHead):
        return head
    return dataclasses.replace(head, width=min(head.width, EMBED))


def _lengths(stream: Stream) -> Mapping[str, int]:
    """The lengths cut to the first of 64, 128, ... at which the objective works."""
    most = LENGTH
    while most < max(stream.lengths.values()):
        lengths = {name: min(length, most) for name, length in stream.lengths.items()}
        try:
            stream.objective.converter.check(lengths)
            return lengths
        except ConfigError:
            most *= 2
    return stream.lengths


def rescale(value, steps: int, of: int):
    """The value, in which every schedule that knows its `steps` is run in steps / of of them."""
    if isinstance(value, Mapping):
        return {name: rescale(child, steps, of) for name, child in value.items()}
    if not dataclasses.is_dataclass(value):
        return value
    old = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    new = {name: rescale(child, steps, of) for name, child in old.items()}
    if type(old.get('steps')) is int:
        counted = [n for n in ('steps', 'warmup', 'decay') if type(old.get(n)) is int]
        new |= {name: old[name] * steps // of for name in counted}
        new['steps'] = max(1, new['steps'])
    changes = {name: new[name] for name in old if new[name] != old[name]}
    return dataclasses.replace(value, **changes) if changes else value


def _rules(value, steps: int):
    """What learns, or how fast, of few layers in few steps; pairs may name layers that are gone."""
    if not callable(value):
        return None
    if isinstance(value, LastLayers):
        return dataclasses.replace(value, count=min(value.count, LAYERS))
    if isinstance(value, GradualUnfreezing):
        groups = 2 * LAYERS + 2
        return dataclasses.replace(value, every=max(1, min(value.every, steps // groups)))
    return value


def _evaluator(value, small: Callable[[Objective], Objective]):
    """An evaluator that runs every 10 steps and reads little; None stands for everything."""
    if not dataclasses.is_dataclass(value):
        return value
    old = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    most = {name: size for name, size in EVALUATOR.items() if name in old}
    changes = {n: size for n, size in most.items() if old[n] is None or old[n] > size}
    if own := old.get('objectives'):
        changes['objectives'] = {name: small(objective) for name, objective in own.items()}
    return dataclasses.replace(value, **changes)


def _checkpoint(plan: Checkpoints) -> Checkpoints:
    keep_every = plan.keep_every and min(plan.keep_every, EVERY)
    return dataclasses.replace(plan, every=min(plan.every, EVERY), keep_every=keep_every)


def changed(old, new, path: str = '') -> Iterator[str]:
    """Dotted paths of all values in which two experiments differ."""
    before, after = children(old), children(new)
    if type(old) is type(new) and before.keys() == after.keys() and before:
        for name in before:
            yield from changed(before[name][0], after[name][0], dotted(path, name))
    elif old != new:
        yield path
