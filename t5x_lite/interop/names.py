"""Name tables: which tensor of a file holds which of our weights, and how it lies there."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# Our linear layers hold [in, out], PyTorch's Linear [out, in]; layers of a stack are one array
# [layers, ...] here and a name for each layer there, with its number in place of {}.


class Weight(NamedTuple):
    """One of our arrays: its path, and the name of its tensor in the file."""

    path: str  # 'encoder/blocks/attention/query/kernel'
    name: str  # 'encoder.layer.{}.attention.self.query.weight'
    transposed: bool = False
    part: tuple[int, int] = (0, 1)  # the k-th of n parts of the file's output dimension
    vocab: bool = False  # rows are ids: there may be more in the file, or padding rows here
    absent: tuple[int, ...] = ()  # layers that have no such tensor: ones here, unused
    outside: bool = False  # an output matrix: of the base architecture only, without the prefix


def linear(
    path: str, name: str, *, bias: bool = True, part=(0, 1), transposed: bool = True
) -> Iterator[Weight]:
    """A linear layer; `transposed=False` for GPT-2's Conv1D, which lies as ours do."""
    yield Weight(f'{path}/kernel', f'{name}.weight', transposed, part)
    if bias:
        yield Weight(f'{path}/bias', f'{name}.bias', False, part)


def norm(path: str, name: str, *, bias: bool = True, absent=()) -> Iterator[Weight]:
    """A normalisation layer: its scale, and its bias if it has one."""
    yield Weight(f'{path}/scale', f'{name}.weight', absent=absent)
    if bias:
        yield Weight(f'{path}/bias', f'{name}.bias', absent=absent)


def table(path: str, name: str, *, vocab: bool = False) -> Weight:
    """An embedding."""
    return Weight(f'{path}/embedding', f'{name}.weight', vocab=vocab)


def output(name: str = 'lm_head') -> Weight:
    """The output matrix of a model whose scores are not tied to the token embedding."""
    return Weight('output/embedding', f'{name}.weight', vocab=True, outside=True)


def as_they_are(fields, tensors):
    """A family whose config.json tells all."""
    return fields, tensors


class HeadNames(NamedTuple):
    """A head that a family has: the architecture that saves it, its value, its weights.

    `build(labels)` makes the value, `weights` have paths below the head's own. `prefix` is that of
    the trunk's names in this architecture, if it is not the family's.
    """

    architecture: str  # 'BertForMaskedLM'
    build: Callable[[int], Any]
    weights: tuple[Weight, ...]
    prefix: str | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model type of Hugging Face's transformers, in both directions.

    Attributes:
      model_type: as in config.json.
      to_model: config.json's fields to a ModelConfig; ConfigError if it has what we do not know.
      to_fields: a ModelConfig to config.json's fields.
      weights: the trunk's weights of a ModelConfig, names without `prefix`.
      base: architecture of a model without heads, `BertModel`, `GPT2LMHeadModel`.
      encoder: the same if it has no decoder and the family else has one, `T5EncoderModel`.
      bare: architecture whose names have no prefix, `BertModel`, `GPT2Model`.
      prefix: of the trunk's names in all other architectures, 'bert.'.
      heads: by a name that an imported model's head gets; the first that fits an architecture.
      together: architectures with several heads, {'BertForPreTraining': ('mlm', 'nsp')}.
      ignored: regular expressions of names without weights of their own: buffers.
      renamed: pairs (pattern, replacement) for old names, ('gamma$', 'weight'), and for tied
        copies; where a file has both names, the new one counts.
      settle: (fields, tensors by their names in the file) to what both say together, where
        config.json alone leaves something open; ConfigError if they have what we do not know.
    """

    model_type: str
    to_model: Callable[[Mapping[str, Any]], Any]
    to_fields: Callable[[Any], dict[str, Any]]
    weights: Callable[[Any], list[Weight]]
    base: str
    bare: str
    encoder: str = ''
    prefix: str = ''
    heads: Mapping[str, HeadNames]
    together: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    settle: Callable[[Mapping, Mapping], tuple[Mapping, Mapping]] = as_they_are
