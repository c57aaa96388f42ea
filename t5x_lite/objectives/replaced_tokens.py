"""Replaced-token detection: a small generator fills masks, the model finds its tokens (ELECTRA)."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.data import packing
from t5x_lite.metrics import Mean
from t5x_lite.model.activations import gelu
from t5x_lite.model.heads import ClassifierHead, Generator
from t5x_lite.objective import Batch, Objective, Outputs, Schedule, Term, encode, needs
from t5x_lite.objectives.checks import check_ids, check_lengths, check_share
from t5x_lite.objectives.losses import cross_entropy
from t5x_lite.objectives.mlm import MaskedLM

# B rows, L tokens of a row, P places of a row that may be predicted.


@dataclass(frozen=True, kw_only=True)
class ReplacedTokens:
    """Masked LM's rows for the generator: `mask_share` of the predicted tokens, no random ones.

    At most P = floor((rate + 0.005) * L) tokens of a row are predicted.
    `encoder_predicted_positions` [P] are their places in order; those left over are 0, the place of
    [CLS], which is never predicted. Source: Clark et al. 2020; google-research/electra.
    """

    rate: float = 0.15
    mask_share: float = 0.85
    features: ClassVar[tuple[str, ...]] = ('targets',)
    longest: ClassVar[int | None] = None

    def __post_init__(self):
        for field in ('rate', 'mask_share'):
            default = getattr(ReplacedTokens, field)
            check_share('electra', field, getattr(self, field), default=default)

    def most(self, lengths: Mapping[str, int]) -> int:
        """How many tokens of a row are predicted at most, P."""
        length = lengths['targets']
        return max(1, min(length - 2, int((self.rate + 0.005) * length)))  # never [CLS], [SEP]

    def _masked(self, lengths: Mapping[str, int]) -> MaskedLM:
        return MaskedLM(
            rate=self.rate,
            max_predictions=self.most(lengths),
            mask_share=self.mask_share,
            random_share=0.0,
        )

    def check(self, lengths: Mapping[str, int], vocabulary=None) -> None:
        check_lengths('electra', lengths, {'targets': 4}, '[CLS], two tokens, [SEP]')
        if vocabulary is not None:
            check_ids('electra', vocabulary, 'cls', 'sep', 'mask')

    def spec(self, lengths: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        return self._masked(lengths).spec(lengths)

    def cutter(self, lengths: Mapping[str, int], vocabulary, seed=()) -> packing.Cutter:
        return self._masked(lengths).cutter(lengths, vocabulary, seed)

    def draws(self, lengths: Mapping[str, int]) -> int:
        return self._masked(lengths).draws(lengths)

    def batch(self, rows: packing.Rows, lengths, vocabulary, uniforms) -> dict[str, np.ndarray]:
        return self._masked(lengths).batch(rows, lengths, vocabulary, uniforms)


@needs('encoder')
def generate_and_detect(model, batch: Batch, key=None) -> Outputs:
    """The generator on masked text, then the encoder on the text with its samples pasted in.

    `generator_logits` [B, P, V] at the predicted places, `replaced` [B, L] (1 where the pasted
    token is not the original one), `encoder_hidden` [B, L, D]. One token is drawn for each place
    from the generator's softmax, without a gradient; without a key always by the same random
    numbers, so that evaluation repeats itself.
    """
    keys = (None, None, jax.random.key(0)) if key is None else jax.random.split(key, 3)
    generator, places_BxP = model.heads['generator'], batch['encoder_predicted_positions']
    hidden_BxLxD = generator.encode(
        model,
        batch['encoder_input_tokens'],
        segments=batch['encoder_segment_ids'],
        positions=batch['encoder_positions'],
        types=batch.get('token_type_ids'),
        key=keys[0],
    )
    hidden_BxPxD = jnp.take_along_axis(hidden_BxLxD, places_BxP[..., None], axis=1)
    logits_BxPxV = generator.logits(model, hidden_BxPxD)
    sampled_BxP = sample(logits_BxPxV, keys[2])
    text_BxL = batch['encoder_target_tokens']
    used_BxP = jnp.take_along_axis(batch['encoder_loss_weights'], places_BxP, axis=1) > 0
    pasted_BxL = paste(text_BxL, sampled_BxP, places_BxP, used_BxP)
    return {
        **encode(model, {**batch, 'encoder_input_tokens': pasted_BxL}, keys[1]),
        'generator_logits': logits_BxPxV,
        'replaced': (pasted_BxL != text_BxL).astype(jnp.int32),
    }


def sample(logits_BxPxV, key):
    """One id for each place, [B, P], from the softmax of its scores (Gumbel-max); no gradient."""
    return jax.random.categorical(key, jax.lax.stop_gradient(logits_BxPxV))


def paste(tokens_BxL, new_BxP, places_BxP, used_BxP):
    """The tokens [B, L] with `new` ones at those places that are used."""
    places_BxP = jnp.where(used_BxP, places_BxP, tokens_BxL.shape[1])  # beyond the row: dropped
    put = lambda row, places, new: row.at[places].set(new, mode='drop')
    return jax.vmap(put)(tokens_BxL, places_BxP, new_BxP)


@dataclass(frozen=True, kw_only=True)
class GeneratorLoss:
    """Cross-entropy of `generator_logits` at the predicted places: nats per predicted token.

    Reports `loss`, `nll` (the same) and `accuracy`.
    """

    side: ClassVar[str] = 'encoder'  # whose targets and weights are scored

    def __call__(self, model, head, outputs, batch) -> dict[str, Mean]:
        places_BxP = batch['encoder_predicted_positions']
        targets_BxP, weights_BxP = (
            jnp.take_along_axis(batch[f'encoder_{name}'], places_BxP, axis=1)
            for name in ('target_tokens', 'loss_weights')
        )
        _, nll_BxP, right_BxP = cross_entropy(outputs['generator_logits'], targets_BxP)
        count = weights_BxP.sum()
        nll = Mean((nll_BxP * weights_BxP).sum(), count)
        return {'loss': nll, 'nll': nll, 'accuracy': Mean((right_BxP * weights_BxP).sum(), count)}


@dataclass(frozen=True, kw_only=True)
class DetectionLoss:
    """Is a token `replaced`? Binary cross-entropy of all tokens but padding, in nats per token.

    Reports `loss`, `accuracy`, and of all tokens the share that is `replaced` and the share that is
    replaced and `found` (recall is found / replaced).
    """

    def __call__(self, model, head, outputs, batch) -> dict[str, Mean]:
        weights_BxL = (batch['encoder_segment_ids'] > 0).astype(jnp.float32)
        logits_BxL = head(outputs['encoder_hidden'])[..., 0]
        replaced_BxL = outputs['replaced'].astype(jnp.float32)
        said_BxL = logits_BxL > 0
        mean = lambda x_BxL: Mean((x_BxL * weights_BxL).sum(), weights_BxL.sum())
        return {
            'loss': mean(jax.nn.softplus(logits_BxL) - replaced_BxL * logits_BxL),
            'accuracy': mean(said_BxL == (replaced_BxL > 0)),
            'replaced': mean(replaced_BxL),
            'found': mean(replaced_BxL * said_BxL),
        }


def electra(
    *,
    rate: float = 0.15,
    mask_share: float = 0.85,
    width: float = 0.25,
    generator_weight: float | Schedule = 1.0,
    discriminator_weight: float | Schedule = 50.0,
) -> Objective:
    """ELECTRA on lengths {'targets': L}: the model is the discriminator, an encoder.

    Small: rate 0.15, generator of width 1/4, L = 128; base: 0.15, 1/3, 512; large: 0.25, 1/4, 512.
    The generator is a part of training alone. Source: Clark et al. 2020.
    """
    detect = ClassifierHead(labels=1, activation=gelu)
    terms = {
        'mlm': Term(loss=GeneratorLoss(), weight=generator_weight),
        'discriminator': Term(loss=DetectionLoss(), weight=discriminator_weight, head=detect),
    }
    return Objective(
        converter=ReplacedTokens(rate=rate, mask_share=mask_share),
        forward=generate_and_detect,
        terms=terms,
        parts={'generator': Generator(width=width)},
    )
