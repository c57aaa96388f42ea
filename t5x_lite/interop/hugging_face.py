"""A folder of Hugging Face files as a model's weights, and a model as such a folder."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from t5x_lite.errors import ConfigError
from t5x_lite.interop import families, files, transfer
from t5x_lite.interop.names import Family, HeadNames, Weight
from t5x_lite.model.config import ModelConfig

CONFIG = 'config.json'
# A file's config does not bind these: they change no shape and no result without dropout.
FREE = ('dropout', 'init', 'dtype', 'remat', 'unroll', 'vocab_multiple')
# Fields of which None means a size of its own: the sizes are compared.
EFFECTIVE = {'head_size': 'kv', 'kv_heads': 'groups', 'embedding_size': 'table'}


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
    family = families.of_fields(fields)
    try:
        fields, tensors = family.settle(fields, tensors)
    except ConfigError as error:
        raise ConfigError(f'{folder}: {error}') from error
    tensors = transfer.rename(tensors, family.prefix, family.renamed, family.ignored)
    return Source(folder, family, fields, tensors)


def heads_of(source: Source) -> dict[str, Any]:
    """The heads that the folder's architecture has, {name: value}."""
    family, architecture = source.family, source.architecture
    names = family.together.get(architecture) or [
        name for name, head in family.heads.items() if head.architecture == architecture
    ]
    return {
        name: family.heads[name].build(source.labels)
        for name in names
        if _has(source, family.heads[name], any)
    }


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
            weights += _below(f'heads/{name}', found, source.family.prefix)
    try:
        return transfer.plan(weights, shapes, source.tensors, model.vocab)
    except ConfigError as error:
        raise ConfigError(f'{source.folder}: {error}') from error


def check_same(source: Source, model: ModelConfig) -> None:
    """ConfigError, naming the field, if the model is not of the folder's architecture."""
    try:
        theirs = source.family.to_model(source.fields)
    except ConfigError as error:
        raise ConfigError(f'{source.folder}: {error}') from error
    wrong = [name for name in differences(model, theirs) if name != 'vocab']
    if model.vocab > max(theirs.vocab, _rows(source, theirs)):
        wrong.insert(0, 'vocab')
    for name in wrong[:1]:
        ours, other = _shown(getattr(model, name)), _shown(getattr(theirs, name))
        raise ConfigError(
            f'{source.folder}: has {name}={other}, but the model has {name}={ours}; '
            f'set model.{name}={other}'
        )


def differences(a: ModelConfig, b: ModelConfig) -> list[str]:
    """The fields in which two architectures differ; a size left out is the one it stands for."""

    def effective(model: ModelConfig, name: str):
        if name == 'scale_logits':
            return model.tied and model.scale_logits
        return getattr(model, EFFECTIVE.get(name, name))

    names = [field.name for field in dataclasses.fields(ModelConfig) if field.name not in FREE]
    return [name for name in names if effective(a, name) != effective(b, name)]


def _rows(source: Source, theirs: ModelConfig) -> int:
    table = next(w for w in source.family.weights(theirs) if w.vocab)
    return source.tensors[table.name].shape[0] if table.name in source.tensors else 0


def _shown(value) -> str:
    return getattr(value, '__name__', None) or repr(value)


def _matching(source: Source, value) -> HeadNames | None:
    """The file's head that is equal to the value, the architecture's own first."""
    candidates = sorted(
        source.family.heads.values(), key=lambda head: head.architecture != source.architecture
    )
    for head in candidates:
        # Of the file's own head a part is not enough: the rest is then named as missing.
        quantity = any if head.architecture == source.architecture else all
        if _has(source, head, quantity) and head.build(source.labels) == value:
            return head
    return None


def _below(path: str, head: HeadNames, prefix: str) -> list[Weight]:
    return [
        weight._replace(path=f'{path}/{weight.path}', name=weight.name.removeprefix(prefix))
        for weight in head.weights
    ]


def unknown(source: Source, unread: list[str]) -> list[str]:
    """Of the names left out those that belong to no head of the family."""
    known = {
        weight.name.removeprefix(source.family.prefix)
        for head in source.family.heads.values()
        for weight in head.weights
    }
    return [name for name in unread if name not in known]


def family_of(model: ModelConfig, heads: Mapping[str, Any] = MappingProxyType({})) -> Family:
    """The family whose config.json describes the model wholly and that has its heads.

    BERT, where ELECTRA has the model too and no head tells them apart.

    Raises:
      ConfigError: none does; names what each of the nearest cannot say, or the head.
    """
    whole, near = [], []
    for name in families.known():
        family = families.find(name)
        try:
            back = family.to_model(family.to_fields(model))
        except (ConfigError, AttributeError):  # has not what this family's have
            continue
        wrong = differences(model, back)
        if wrong:
            near.append((len(wrong), name, wrong))
        else:
            whole.append(family)
    if not whole:
        shown = '; '.join(
            f'{name} has another {", ".join(wrong)}' for _, name, wrong in sorted(near)[:3]
        )
        shown = shown or ', '.join(families.known())
        raise ConfigError(f'the model is of no family known here: {shown}')
    fits = [family for family in whole if all(_like(family, value) for value in heads.values())]
    family = (fits or whole)[0]
    _architecture(family, model, heads)  # raises if it has not these heads
    return family


def _like(family: Family, value) -> list[HeadNames]:
    """The family's heads that are equal to the value."""
    labels = getattr(value, 'labels', 2)
    return [head for head in family.heads.values() if head.build(labels) == value]


def write_folder(
    folder: Path, model: ModelConfig, heads: Mapping[str, Any], arrays, *, dtype: str = 'float32'
) -> None:
    """Writes config.json and the safetensors files of a model into an existing folder.

    Raises:
      ConfigError: no family has the model, or no architecture its heads.
    """
    family = family_of(model, heads)
    architecture, chosen = _architecture(family, model, heads)
    weights = chosen_weights(family, model, heads)
    fields = family.to_fields(model) | dict(
        model_type=family.model_type, architectures=[architecture], dtype=dtype
    )
    for name, head in chosen.items():
        if head.build(1) != head.build(2):  # else its architecture does not ask for labels
            fields |= _label_fields(heads[name].labels)
    tensors = transfer.outgoing(weights, arrays, model.vocab)
    files.write_folder(folder, tensors.shapes, tensors.read, dtype=dtype)
    text = json.dumps(fields, indent=2, sort_keys=True) + '\n'
    (folder / CONFIG).write_text(text, encoding='utf-8')


def _full(family: Family, architecture: str, name: str) -> str:
    """A table's name as the architecture saves it; the names of heads are whole already."""
    whole = {w.name for head in family.heads.values() for w in head.weights}
    bare = architecture in (family.bare, family.encoder)
    if bare or (name in whole and family.prefix + name not in whole):
        return name
    return family.prefix + name


def _label_fields(labels: int) -> dict[str, Any]:
    names = [f'LABEL_{i}' for i in range(labels)]
    return dict(
        id2label={str(i): name for i, name in enumerate(names)},
        label2id={name: i for i, name in enumerate(names)},
    )


def chosen_weights(family: Family, model: ModelConfig, heads: Mapping[str, Any]) -> list[Weight]:
    """All weights of a model with these heads, by the names that its architecture saves."""
    architecture, chosen = _architecture(family, model, heads)
    outside = [w for w in family.weights(model) if w.outside and architecture == family.base]
    weights = [w for w in family.weights(model) if not w.outside]
    for name, head in chosen.items():
        weights += _below(f'heads/{name}', head, family.prefix)
    return [w._replace(name=_full(family, architecture, w.name)) for w in weights] + outside


def _architecture(family: Family, model: ModelConfig, heads: Mapping[str, Any]):
    """(architecture, {our head's name: the family's}) for exactly these heads."""
    chosen = {}
    for name, value in heads.items():
        fits = _like(family, value)
        if not fits:
            raise ConfigError(
                f'export: {family.model_type} has no head like {name}={value!r}; it has '
                + ', '.join(family.heads)
            )
        own = [head for head in fits if head is family.heads.get(name)]
        chosen[name] = (own or fits)[0]
    kinds = sorted(name for name, head in family.heads.items() if head in chosen.values())
    for architecture, names in family.together.items():
        if sorted(names) == kinds:
            return architecture, chosen
    if len(chosen) > 1:
        raise ConfigError(
            f'export: no architecture of {family.model_type} has the heads {", ".join(kinds)} '
            'together; name one of them with --head'
        )
    base = family.base if model.decoder_layers else family.encoder or family.base
    return next((head.architecture for head in chosen.values()), base), chosen
