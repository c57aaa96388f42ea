"""Score: how likely a decoder finds a text, or targets for inputs."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.errors import ConfigError
from t5x_lite.inference.generate import sees_both_ways
from t5x_lite.inference.verbs import text_of


class Scored(NamedTuple):
    """An example: what the encoder reads (or []), what the decoder is given, what is scored."""

    inputs: list[int]
    given: list[int]
    targets: list[int]


@dataclass(frozen=True, kw_only=True)
class Score:
    """Log-probabilities of texts, or of `targets` after `inputs`, in nats.

    As in training BOS stands in front, and EOS is scored too, unless `eos=False`.
    """

    eos: bool = True

    def prepare(self, opened, example) -> Scored:
        if not opened.model.decoder_layers:
            raise ConfigError(f'score: {opened.run} has no decoder; see fill')
        paired = not isinstance(example, str) and 'targets' in example
        if opened.model.encoder_layers and not (paired and 'inputs' in example):
            raise ConfigError("score: an encoder-decoder needs 'inputs' and 'targets'")
        targets = opened.ids(example['targets'] if paired else text_of(example))
        if self.eos and opened.info.eos is not None:
            targets = [*targets, opened.info.eos]
        if not targets:
            raise ConfigError('the text is empty; give it a word')
        inputs, given = [], [opened.start]
        if opened.model.encoder_layers:
            inputs = opened.framed(example['inputs'])
        elif paired and 'inputs' in example:
            given = [*given, *opened.ids(example['inputs'])]
        opened.check_length(len(given) + len(targets) - 1)
        return Scored(inputs, given, targets)

    def run(self, opened, prepared: Sequence[Scored], numbers) -> list[dict]:
        """{'log_prob': of all, 'tokens': how many, 'log_probs': of each}."""
        whole = [[*one.given, *one.targets] for one in prepared]
        tokens_NxL, segments_NxL = opened.padded([row[:-1] for row in whole])
        targets_NxL = np.zeros_like(tokens_NxL)
        prefix_NxL, both_ways = np.zeros_like(tokens_NxL), sees_both_ways(opened)
        for i, one in enumerate(prepared):
            targets_NxL[i, : len(whole[i]) - 1] = whole[i][1:]
            prefix_NxL[i, : len(one.given)] = both_ways
        rows = {'tokens': tokens_NxL, 'segments': segments_NxL, 'targets': targets_NxL}
        rows['prefix'] = prefix_NxL
        if opened.model.encoder_layers:
            rows['inputs'], rows['input_segments'] = opened.padded([one.inputs for one in prepared])
        found_NxL = opened.compute(_scored, rows)['log_probs']
        out = []
        for one, row_L in zip(prepared, found_NxL, strict=True):
            begin = len(one.given) - 1
            own = row_L[begin : begin + len(one.targets)]
            log_probs = [round(float(x), 5) for x in own]
            total = round(float(own.sum(dtype=np.float64)), 5)
            out.append({'log_prob': total, 'tokens': len(own), 'log_probs': log_probs})
        return out


def _scored(model, batch):
    more = {}
    if 'inputs' in batch:
        more['memory'] = model.encode(batch['inputs'], segments=batch['input_segments'])
        more['memory_segments'] = batch['input_segments']
    else:
        more['prefix'] = batch['prefix']
    hidden_BxLxD, _ = model.decode(batch['tokens'], segments=batch['segments'], **more)
    log_probs_BxLxV = jax.nn.log_softmax(model.logits(hidden_BxLxD).astype(jnp.float32))
    own = jnp.take_along_axis(log_probs_BxLxV, batch['targets'][..., None], axis=-1)
    return {'log_probs': own[..., 0]}
