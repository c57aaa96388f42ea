"""mT5 (Xue et al. 2020) in transformers' files: T5 1.1 with a larger vocabulary."""
# SPDX-License-Identifier: Apache-2.0

import functools

from t5x_lite.errors import ConfigError
from t5x_lite.interop.families import t5

VOCAB = 250_112  # of all published sizes


def to_fields(model):
    """As T5's; the vocabulary alone tells that a model of T5 1.1's architecture is an mT5.

    Any other is written as `t5`, which computes the same.
    """
    if model.vocab != VOCAB or model.scale_logits:
        raise ConfigError(f'mt5: has vocab={VOCAB}, here {model.vocab}, and no scaled logits')
    return t5.to_fields(model)


FAMILY = t5.family(
    'mt5', 'MT5', to_fields=to_fields, settle=functools.partial(t5.settle, scaled=False)
)
