"""ELECTRA's generator: narrow layers and a masked LM head over another model's embeddings."""
# SPDX-License-Identifier: Apache-2.0

from flax import nnx

from t5x_lite.model.head_modules import MaskedLM
from t5x_lite.model.transformer import Stack, both_ways


class NarrowMaskedLM(nnx.Module):
    """An encoder that reads the embeddings of `model`, and scores through them (Clark et al. 2020).

    Token, position and type embeddings and their norm are the model's, and are passed in, not held.
    `config` is that of the layers here (`heads.Generator.narrowed`).
    """

    def __init__(self, config, rngs):
        self.encoder = Stack(config, config.encoder_layers, False, 0, rngs)
        self.head = MaskedLM(config, rngs, bias=True)

    def encode(self, model, tokens_BxL, *, segments=None, positions=None, types=None, key=None):
        """Hidden states [B, L, D] of the narrow layers; arguments as those of `Model.encode`."""
        context = both_ways(
            self.encoder, tokens_BxL, segments, positions, types, dropping=key is not None
        )
        x_BxLxD = model.encoder.embedded(model.embed(tokens_BxL), context)
        return self.encoder(x_BxLxD, context, key)[0]

    def logits(self, model, hidden_BxLxD):
        """Scores over the model's vocabulary, [B, L, V] in float32."""
        return self.head(hidden_BxLxD, model)
