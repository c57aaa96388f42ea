"""A folder of Hugging Face files as a model's weights, and a model as such a folder."""
# SPDX-License-Identifier: Apache-2.0

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from t5x_lite.errors import ConfigError
from t5x_lite.interop import architectures, families, files, transfer
from t5x_lite.interop.names import Family, HeadNames
from t5x_lite.model.config import ModelConfig

CONFIG = 'config.json'


class Source(NamedTuple):
    """A folder of files: its family, its config.json, its tensors by the names of tables."""

    folder: Path
    family: Family
    fields: Mapping[str, Any]
    tensors: Mapping[str, files.Tensor]

    @property
    def labels(self) -> int:
        names = self.fields.get('id2label')
        return len(names) if names else self.fields.get('num_labels') or 2  # their default

    @property
    def architecture(self) -> str:
        return (self.fields.get('architectures') or [self.family.base])[0]


def open_folder(folder: str | Path) -> Source:
    """A folder's files, looked at but not read.

    Raises:
      ConfigError: a missing or damaged file, pickles, an unknown family.
    """
    folder = Path(folder)
    tensors = files.read_folder(folder)
    fields = files.read_json(folder / CONFIG)
    try:
        family = families.of_fields(fields)
        fields, tensors = family.settle(fields, tensors)
    except ConfigError as error:
        raise ConfigError(f'{folder}: {error}') from error
    tensors = transfer.rename(tensors, family.prefix, family.renamed, family.ignored)
    return Source(folder, family, fields, tensors)


def model_of(source: Source) -> ModelConfig:
    """The model that the folder's config.json describes.

    Raises:
      ConfigError: a field that is missing, of the wrong type, or of a kind not known here.
    """
    kind = source.family.model_type
    try:
        return source.family.to_model(source.fields)
    except ConfigError as error:
        raise ConfigError(f'{source.folder}: {error}') from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f'{source.folder}: config.json has a field of another type than a {kind} model has '
            f'({error}); restore the file'
        ) from error


def own_heads(source: Source) -> dict[str, HeadNames]:
    """The heads of the folder's architecture. A bare model's pooler may be missing altogether."""
    family, architecture = source.family, source.architecture
    names = family.together.get(architecture) or [
        name for name, head in family.heads.items() if head.architecture == architecture
    ]
    found = {name: family.heads[name] for name in names}
    optional = architecture == family.bare
    return {n: head for n, head in found.items() if not optional or _has(source, head, any)}


def heads_of(source: Source) -> dict[str, Any]:
    """The heads that the folder's architecture has, {name: value}."""
    return {name: head.build(source.labels) for name, head in own_heads(source).items()}


def _has(source: Source, head: HeadNames, quantity=all) -> bool:
    prefix = source.family.prefix
    return quantity(weight.name.removeprefix(prefix) in source.tensors for weight in head.weights)


def plan(source: Source, model: ModelConfig, heads: Mapping[str, Any], shapes) -> transfer.Plan:
    """What of the folder goes where in a model with these heads; those it lacks stay as they are.

    Raises:
      ConfigError: another architecture, a tensor that is missing or does not fit.
    """
    check_same(source, model)
    weights = list(source.family.weights(model))
    for name, value in heads.items():
        found = _matching(source, value)
        if found is not None:
            weights += architectures.below(f'heads/{name}', found, source.family.prefix)
    try:
        return transfer.plan(weights, shapes, source.tensors, model.vocab)
    except ConfigError as error:
        raise ConfigError(f'{source.folder}: {error}') from error


def check_same(source: Source, model: ModelConfig) -> None:
    """ConfigError, naming the field, if the model is not of the folder's architecture."""
    theirs = model_of(source)
    wrong = [name for name in architectures.differences(model, theirs) if name != 'vocab']
    if model.vocab > max(theirs.vocab, _rows(source, theirs)):
        wrong.insert(0, 'vocab')
    for name in wrong[:1]:
        ours, other = _shown(getattr(model, name)), _shown(getattr(theirs, name))
        raise ConfigError(
            f'{source.folder}: has {name}={other}, but the model has {name}={ours}; '
            f'set model.{name}={other}'
        )


def _rows(source: Source, theirs: ModelConfig) -> int:
    table = next(w for w in source.family.weights(theirs) if w.vocab)
    return source.tensors[table.name].shape[0] if table.name in source.tensors else 0


def _shown(value) -> str:
    return getattr(value, '__name__', None) or repr(value)


def _matching(source: Source, value) -> HeadNames | None:
    """The file's head that is equal to the value, the architecture's own first.

    Of its own head nothing may be missing; another's counts if the file has all of it.
    """
    own = list(own_heads(source).values())
    others = [head for head in source.family.heads.values() if head not in own]
    candidates = own + [head for head in others if _has(source, head)]
    return next((head for head in candidates if head.build(source.labels) == value), None)


def unknown(source: Source, unread: list[str]) -> list[str]:
    """Of the names left out those that belong to no head of the family."""
    known = {
        weight.name.removeprefix(source.family.prefix)
        for head in source.family.heads.values()
        for weight in head.weights
    }
    return [name for name in unread if name not in known]


def write_folder(
    folder: Path,
    model: ModelConfig,
    heads: Mapping[str, Any],
    arrays,
    *,
    dtype: str = 'float32',
    like: Mapping[str, Any] | None = None,
) -> None:
    """Writes config.json and the safetensors files of a model into an existing folder.

    `like` are the fields that the model came with: what they say more than its architecture (names
    of labels, special ids, pooling) is kept.

    Raises:
      ConfigError: no family has the model, or no architecture its heads.
    """
    family, kept = _family_like(model, heads, like)
    architecture, chosen = architectures.architecture(family, model, heads)
    weights = architectures.chosen_weights(family, model, heads)
    own = family.to_fields(model)
    fields = dict(kept, vocab_size=own['vocab_size']) if kept else own
    fields |= dict(model_type=family.model_type, architectures=[architecture], dtype=dtype)
    fields.pop('torch_dtype', None)  # what dtype was called before transformers 5
    for name, head in chosen.items():
        if head.build(1) != head.build(2):  # else its architecture does not ask for labels
            fields |= _label_fields(heads[name].labels, fields)
    tensors = transfer.outgoing(weights, arrays, model.vocab)
    files.write_folder(folder, tensors.shapes, tensors.read, dtype=dtype)
    text = json.dumps(fields, indent=2, sort_keys=True) + '\n'
    (folder / CONFIG).write_text(text, encoding='utf-8')


def _family_like(model, heads, like) -> tuple[Family, dict[str, Any]]:
    """(family, fields to keep) of the model: those it came with if they still describe it."""
    if like is not None:
        family = families.of_fields(like)
        fields = {**like, 'tie_word_embeddings': model.tied}
        same = set(architectures.differences(family.to_model(fields), model)) <= {'vocab'}
        if same and all(architectures.alike(family, value) for value in heads.values()):
            return family, fields
    return architectures.family_of(model, heads), {}


def _label_fields(labels: int, fields: Mapping[str, Any]) -> dict[str, Any]:
    if len(fields.get('id2label') or ()) == labels:
        return {}
    names = [f'LABEL_{i}' for i in range(labels)]
    return dict(
        id2label={str(i): name for i, name in enumerate(names)},
        label2id={name: i for i, name in enumerate(names)},
    )
