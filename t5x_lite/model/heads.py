"""Heads as values: masked-LM transform and sentence vector; `build` makes their weights."""
# SPDX-License-Identifier: Apache-2.0

from dataclasses import dataclass

# Their modules live in head_modules.py, imported by `build`: reading a config stays fast.


@dataclass(frozen=True)
class MaskedLMHead:
    """dense(D, D), activation, norm, then the tied embedding and a bias (Devlin et al. 2018)."""

    def build(self, config, rngs):
        from t5x_lite.model.head_modules import MaskedLM

        return MaskedLM(config, rngs)


@dataclass(frozen=True)
class SentenceHead:
    """dense(D, D) and tanh on a pooled vector (BERT's pooler; SimCSE's training-time MLP)."""

    def build(self, config, rngs):
        from t5x_lite.model.head_modules import Sentence

        return Sentence(config, rngs)
