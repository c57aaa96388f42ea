"""Which architecture of transformers a model with its heads is, and its tensors' names there."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from t5x_lite.errors import ConfigError
from t5x_lite.interop import families
from t5x_lite.interop.names import Family, HeadNames, Weight
from t5x_lite.model.config import ModelConfig

# A file's config does not bind these: they change no shape and, but for rounding, no result
# without dropout.
FREE = ('dropout', 'init', 'dtype', 'matmul', 'remat', 'unroll', 'vocab_multiple', 'attention')
# Fields of which None means a size of its own: the sizes are compared.
EFFECTIVE = {'head_size': 'kv', 'kv_heads': 'groups', 'embedding_size': 'table'}


def differences(a: ModelConfig, b: ModelConfig) -> list[str]:
    """The fields in which two architectures differ; a size left out is the one it stands for."""

    def effective(model: ModelConfig, name: str):
        if name == 'scale_logits':
            return model.tied and model.scale_logits
        return getattr(model, EFFECTIVE.get(name, name))

    names = [field.name for field in dataclasses.fields(ModelConfig) if field.name not in FREE]
    return [name for name in names if effective(a, name) != effective(b, name)]


def family_of(model: ModelConfig, heads: Mapping[str, Any] = MappingProxyType({})) -> Family:
    """The family whose config.json describes the model wholly and that has its heads.

    BERT, where ELECTRA has the model too and no head tells them apart.

    Raises:
      ConfigError: none does; names what each of the nearest cannot say, or the head.
    """
    whole, near, reasons = [], [], {}
    for name in families.known():
        family = families.find(name)
        try:
            back = family.to_model(family.to_fields(model))
        except ConfigError as error:
            reasons[name] = str(error)
            continue
        except AttributeError:  # positions or norms have not what this family's have
            reasons[name] = 'has positions or norms of another kind'
            continue
        wrong = differences(model, back)
        if wrong:
            near.append((len(wrong), name, wrong))
        else:
            whole.append(family)
    if not whole:
        told = [f'{name} has another {", ".join(wrong)}' for _, name, wrong in sorted(near)[:3]]
        told = told or [f'{name}: {reason}' for name, reason in reasons.items()]
        raise ConfigError(f'the model is of no family known here: {"; ".join(told)}')
    fits = [family for family in whole if all(alike(family, value) for value in heads.values())]
    family = (fits or whole)[0]
    architecture(family, model, heads)  # raises if it has not these heads
    return family


def alike(family: Family, value) -> list[HeadNames]:
    """The family's heads that are equal to the value."""
    labels = getattr(value, 'labels', 2)
    return [head for head in family.heads.values() if head.build(labels) == value]


def published_heads(model: ModelConfig) -> dict[str, dict[str, Any]]:
    """{architecture: its heads} of the model's family, those that do not depend on labels."""
    try:
        family = family_of(model)
    except ConfigError:  # a model of our own
        return {}
    fixed = {n: head.build(2) for n, head in family.heads.items() if head.build(1) == head.build(2)}
    out = {family.heads[name].architecture: {name: value} for name, value in fixed.items()}
    together = family.together.items()
    return out | {kind: {name: fixed[name] for name in names} for kind, names in together}


def chosen_weights(family: Family, model: ModelConfig, heads: Mapping[str, Any]) -> list[Weight]:
    """All weights of a model with these heads, by the names that its architecture saves."""
    kind, chosen = architecture(family, model, heads)
    outside = [w for w in family.weights(model) if w.outside and kind == family.base]
    weights = [w for w in family.weights(model) if not w.outside]
    for name, head in chosen.items():
        weights += below(f'heads/{name}', head, family.prefix)
    return [w._replace(name=_full(family, kind, w.name)) for w in weights] + outside


def architecture(family: Family, model: ModelConfig, heads: Mapping[str, Any]):
    """(architecture, {our head's name: the family's}) for exactly these heads."""
    chosen = {}
    for name, value in heads.items():
        fits = alike(family, value)
        if not fits:
            raise ConfigError(
                f'export: {family.model_type} has no head like {name}={value!r}; it has '
                + ', '.join(family.heads)
            )
        own = [head for head in fits if head is family.heads.get(name)]
        if not own and len(fits) > 1:
            known = ' or '.join(kind for kind, head in family.heads.items() if head in fits)
            raise ConfigError(
                f'export: the head {name}={value!r} may be {known} of {family.model_type}; say '
                f'which: --head {name}={known.split()[0]}'
            )
        chosen[name] = (own or fits)[0]
    kinds = sorted(name for name, head in family.heads.items() if head in chosen.values())
    for kind, names in family.together.items():
        if sorted(names) == kinds:
            return kind, chosen
    if len(chosen) > 1:
        raise ConfigError(
            f'export: no architecture of {family.model_type} has the heads {", ".join(heads)} '
            f'together; choose one: --head {next(iter(heads))}'
        )
    base = family.base if model.decoder_layers else family.encoder or family.base
    return next((head.architecture for head in chosen.values()), base), chosen


def below(path: str, head: HeadNames, prefix: str) -> list[Weight]:
    """A head's weights, their paths below `path`, their names without the trunk's prefix."""
    return [
        weight._replace(path=f'{path}/{weight.path}', name=weight.name.removeprefix(prefix))
        for weight in head.weights
    ]


def _full(family: Family, kind: str, name: str) -> str:
    """A table's name as the architecture saves it; the names of heads are whole already."""
    whole = {w.name for head in family.heads.values() for w in head.weights}
    bare = kind in (family.bare, family.encoder)
    if bare or (name in whole and family.prefix + name not in whole):
        return name
    own = (h.prefix for h in family.heads.values() if h.architecture == kind)
    return next((prefix for prefix in own if prefix is not None), family.prefix) + name
