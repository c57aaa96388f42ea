"""Generate: texts that a decoder, or an encoder with a decoder, writes for prompts."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from t5x_lite.errors import ConfigError
from t5x_lite.inference.verbs import text_of
from t5x_lite.model import decode
from t5x_lite.model.sampling import GREEDY, Beam, Sampling


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Up to `length` tokens for each prompt: greedy, drawn or by beams (`how`, `model.sampling`).

    A decoder goes on behind the prompt, which begins with BOS as a document does in training; an
    encoder-decoder reads the prompt and writes. A text ends at EOS, or in front of the first of the
    strings `stops`. The nth prompt draws with the nth key of `seed`, whatever the batch.
    """

    length: int = 64
    how: Sampling | Beam = GREEDY
    stops: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self):
        object.__setattr__(self, 'stops', tuple(self.stops))
        if type(self.length) is not int or self.length < 1:
            raise ConfigError(f'generate: length={self.length!r} must be an integer of 1 or more')
        if '' in self.stops:
            raise ConfigError("generate: stops has '', which ends every text; leave it out")
        if self.stops and isinstance(self.how, Beam):
            raise ConfigError(f'generate: stops={self.stops} are not known to Beam; use Sampling')

    def check(self, opened) -> None:
        if not opened.model.decoder_layers:
            raise ConfigError(f'generate: {opened.run} has no decoder; see fill, embed, classify')
        most = opened.model.positions.max_length
        if opened.model.encoder_layers and most is not None and self.length > most:
            raise ConfigError(
                f'generate: length={self.length} must be at most the {most} positions of the '
                f'decoder; try length={most}'
            )

    def prepare(self, opened, example) -> list[int]:
        if opened.model.encoder_layers:
            return opened.framed(text_of(example))
        row = [opened.start, *opened.ids(text_of(example))]
        opened.check_length(len(row) + self.length)
        return row

    def run(self, opened, prepared: Sequence[list[int]], numbers) -> list[dict]:
        """{'text', 'score', 'tokens', 'log_probs'} of the best or only text, others in 'more'.

        Tokens and scores are of all that was written, also behind a string of `stops`.
        """
        paired = opened.model.encoder_layers > 0
        rows = {'number': np.array(numbers, np.int32)}
        if paired:
            rows['tokens'], rows['segments'] = opened.padded(prepared)
        else:
            width = opened.padded(prepared)[0].shape[1]
            rows['tokens'], rows['segments'] = decode.left_aligned(prepared, width)
        found = opened.compute(
            _written,
            rows,
            how=self.how,
            length=self.length,
            stops=tuple(tuple(opened.ids(stop)) for stop in self.stops),
            seed=self.seed,
            eos=opened.info.eos,
            start=opened.start if paired else None,
            prefix=sees_both_ways(opened),
        )
        told = []
        for i, prompt in enumerate(prepared):
            samples = zip(
                found['tokens'][i], found['log_probs'][i], found['scores'][i], strict=True
            )
            best, *more = [self._told(opened, [] if paired else prompt, *one) for one in samples]
            told.append(best | ({'more': more} if more else {}))
        return told

    def _told(self, opened, prompt: list[int], tokens_L, log_probs_L, score) -> dict:
        count = _length(tokens_L, log_probs_L)
        ids, info = tokens_L[:count].tolist(), opened.info
        text, before = info.text([*prompt, *ids]), info.text(prompt)
        text = text[len(before) :] if text.startswith(before) else info.text(ids)
        for stop in self.stops:
            text = text.partition(stop)[0]
        log_probs = [round(float(x), 5) for x in log_probs_L[:count]]
        return {'text': text, 'score': float(score), 'tokens': ids, 'log_probs': log_probs}


def _length(tokens_L, log_probs_L) -> int:
    """How many were written: 0 with a log-probability of 0 follows the end."""
    real = np.flatnonzero((tokens_L != 0) | (log_probs_L != 0))
    return int(real[-1]) + 1 if len(real) else 0


def sees_both_ways(opened) -> bool:
    """Whether a decoder alone was trained with prefixes whose tokens see each other."""
    streams = {} if opened.experiment is None else opened.experiment.streams
    return opened.model.encoder_layers == 0 and any(
        'decoder_causal_attention' in stream.spec() for stream in streams.values()
    )


def _written(model, batch, *, how, length, stops, seed, eos, start, prefix):
    tokens_BxL, segments_BxL, more = batch['tokens'], batch['segments'], {}
    if start is not None:
        more['memory'] = model.encode(tokens_BxL, segments=segments_BxL)
        more['memory_segments'] = segments_BxL
        tokens_BxL, segments_BxL = jax.numpy.full((len(tokens_BxL), 1), start), None
    found = decode.generate(
        model,
        tokens_BxL,
        length,
        how,
        eos=eos,
        segments=segments_BxL,
        prefix=prefix,
        stops=stops,
        key=jax.random.key(seed),
        rows=batch['number'],
        **more,
    )
    return {
        'tokens': found.tokens_BxSxL,
        'log_probs': found.log_probs_BxSxL,
        'scores': found.scores_BxS,
    }
