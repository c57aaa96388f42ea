"""Does a stream fit its experiment: the model's stacks and positions, batches, devices."""
# SPDX-License-Identifier: Apache-2.0

import itertools
import math

from t5x_lite.errors import ConfigError
from t5x_lite.model.config import ModelConfig


def check(experiment, name: str, stream) -> None:
    """ConfigError if a stream of the experiment cannot be trained with the rest of it."""
    _stacks(experiment, name, stream)
    _types(experiment, name, stream)
    _labels(name, stream)
    _views(experiment, name, stream)
    _rows(experiment, name, stream)
    _lengths(experiment, name, stream)


def _stacks(experiment, name: str, stream) -> None:
    missing = [s for s in stream.objective.forward.needs if s not in experiment.model.stacks]
    if missing:
        raise ConfigError(
            f"Stream '{name}': its objective runs through the {missing[0]}, but the model has "
            f'{missing[0]}_layers=0; set model.{missing[0]}_layers, or choose an objective for '
            f'{" and ".join(experiment.model.stacks)}'
        )


def _types(experiment, name: str, stream) -> None:
    for what, model in _models(experiment, stream):
        if model.types < 2 and any(n.endswith('token_type_ids') for n in stream.spec()):
            raise ConfigError(
                f"Stream '{name}': its rows are pairs of sentences, but {what}.types="
                f'{model.types} cannot tell the first from the second; set {what}.types=2'
            )


def _labels(name: str, stream) -> None:
    """A head that knows as many labels as the rows have."""
    converter = stream.objective.converter
    tags = getattr(converter, 'tags', None)
    labels = getattr(converter, 'labels', None) if tags is None else len(tags)
    for term, own in stream.objective.terms.items():
        known = getattr(own.head, 'labels', labels)
        if labels is not None and known != labels:
            raise ConfigError(
                f"Stream '{name}': term '{term}' has a head of labels={known}, but the objective "
                f'has {labels}; set both to the same number'
            )


def _models(experiment, stream) -> list[tuple[str, ModelConfig]]:
    """What reads the stream's rows: the model and its teachers, and how errors call them."""
    teachers = stream.objective.teachers.items()
    return [('model', experiment.model), *((f'{name}.model', t.model) for name, t in teachers)]


def _views(experiment, name: str, stream) -> None:
    """What makes a contrastive loss 0 whatever the model: equal views, or no negatives."""
    objective = stream.objective
    if objective.forward.needs_dropout and experiment.model.dropout == 0:
        raise ConfigError(
            f"Stream '{name}': its two views of a row differ by dropout alone, but "
            'model.dropout=0.0; set model.dropout=0.1'
        )
    lonely = lambda term: term.batchwide and not term.loss.own_negatives
    if stream.batch_size == 1 and all(map(lonely, objective.terms.values())):
        raise ConfigError(
            f"Stream '{name}': batch_size=1 leaves no other row as a negative; try 64"
        )


def _rows(experiment, name: str, stream) -> None:
    parts = math.lcm(experiment.microbatches, experiment.data_shards)
    if stream.batch_size % parts:
        raise ConfigError(
            f"Stream '{name}': batch_size={stream.batch_size} must divide over microbatches="
            f'{experiment.microbatches} and data_shards={experiment.data_shards}; '
            f'try {multiples(stream.batch_size, parts)}'
        )


def _lengths(experiment, name: str, stream) -> None:
    spec = stream.objective.converter.spec(stream.lengths)
    ordered = 'encoder_order' in spec
    for (what, model), (array, (shape, _)) in itertools.product(
        _models(experiment, stream), spec.items()
    ):
        if ordered:
            model.check_order(f"Stream '{name}'")
        # Query tokens behind the text have the positions of the tokens they predict.
        length = max(stream.lengths.values()) if ordered else (*shape, 0)[0]
        longest = model.positions.max_length
        if longest is not None and length > longest:
            raise ConfigError(
                f"Stream '{name}': {array} has length {length}, but {what}.positions knows "
                f'{longest}; shorten lengths={dict(stream.lengths)} or enlarge positions'
            )


def check_context(name: str, stream, context: int) -> None:
    """ConfigError unless its rows divide over that many devices."""
    for array, (shape, _) in stream.spec().items():
        if array.endswith('_input_tokens') and shape[1] % context:
            raise ConfigError(
                f"Stream '{name}': {array} has length {shape[1]}, which must divide over "
                f'mesh.context={context}; try {multiples(shape[1], context)}'
            )


def multiples(size: int, of: int) -> str:
    """The sizes next to `size` that divide by `of`, in words."""
    below = size // of * of
    return f'{below} or {below + of}' if below else str(of)
