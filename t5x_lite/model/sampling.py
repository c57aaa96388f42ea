"""How the next token is chosen: values for greedy decoding, sampling and beam search."""
# SPDX-License-Identifier: Apache-2.0

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from t5x_lite.errors import ConfigError

COLDEST = 1e-4  # below it sampling is greedy: scores divided by less overflow
HIDDEN = -1e30


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Draws from the model's distribution: `temperature` first, then `top_k`, then `top_p`.

    A temperature below 1e-4 is greedy. `top_k` keeps the k most likely tokens (Fan et al. 2018),
    `top_p` the fewest whose probabilities sum to p or more, at least one (Holtzman et al. 2020).
    `samples` are drawn for each prompt.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    samples: int = 1

    def __post_init__(self):
        if not self.temperature >= 0:
            raise ConfigError(
                f'Sampling: temperature={self.temperature} must be 0 (greedy) or more; try 1.0'
            )
        for name in ('top_k', 'samples'):
            value = getattr(self, name)
            if (type(value) is not int or value < 1) and (name, value) != ('top_k', None):
                raise ConfigError(f'Sampling: {name}={value!r} must be an integer of 1 or more')
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f'Sampling: top_p={self.top_p} must be in (0, 1]; try 0.95')
        if self.samples > 1 and self.is_greedy:
            raise ConfigError(
                f'Sampling: samples={self.samples} of temperature={self.temperature} would all be '
                'the same; set a temperature, such as 1.0, or samples=1'
            )

    @property
    def is_greedy(self) -> bool:
        return self.temperature < COLDEST

    def choose(self, logits_BxV, keys_B):
        """The next token of each row [B]; every row draws with its own key."""
        if self.is_greedy:
            return jnp.argmax(logits_BxV, axis=-1)
        return jax.vmap(jax.random.categorical)(keys_B, self.kept(logits_BxV))

    def kept(self, logits_BxV):
        """The scores that are drawn from: by the temperature, and HIDDEN what is never drawn."""
        logits_BxV = logits_BxV.astype(jnp.float32) / max(self.temperature, COLDEST)
        if self.top_k is not None:
            least_Bx1 = jax.lax.top_k(logits_BxV, min(self.top_k, logits_BxV.shape[-1]))[0][:, -1:]
            logits_BxV = jnp.where(logits_BxV < least_Bx1, HIDDEN, logits_BxV)
        if self.top_p is not None and self.top_p < 1:
            logits_BxV = jnp.where(_nucleus(logits_BxV, self.top_p), logits_BxV, HIDDEN)
        return logits_BxV


GREEDY = Sampling(temperature=0.0)


def _nucleus(logits_BxV, p: float):
    """True for the most likely tokens up to the one with which their sum reaches p."""
    order_BxV = jnp.argsort(-logits_BxV, axis=-1)
    shares_BxV = jax.nn.softmax(jnp.take_along_axis(logits_BxV, order_BxV, axis=-1), axis=-1)
    before_BxV = jnp.cumsum(shares_BxV, axis=-1) - shares_BxV
    return jnp.take_along_axis(before_BxV < p, jnp.argsort(order_BxV, axis=-1), axis=-1)


@dataclass(frozen=True, kw_only=True)
class Beam:
    """Beam search: `size` hypotheses a step, the best `returned` of those that ended.

    A hypothesis scores sum(log p) / ((5 + n) / 6)^alpha, n its tokens with EOS (Wu et al. 2016).
    """

    size: int = 4
    alpha: float = 0.6
    returned: int = 1

    def __post_init__(self):
        for name in ('size', 'returned'):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f'Beam: {name}={value!r} must be an integer of 1 or more')
        if self.returned > self.size:
            raise ConfigError(
                f'Beam: returned={self.returned} must be at most size={self.size}; enlarge size'
            )
        if not self.alpha >= 0:
            raise ConfigError(f'Beam: alpha={self.alpha} must be 0 or more; try 0.6')

    def normalised(self, log_prob, tokens):
        """The score of hypotheses of that many tokens."""
        return log_prob / ((5.0 + tokens) / 6.0) ** self.alpha
