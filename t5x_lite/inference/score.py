"""Score: how likely a model finds a text, or a decoder targets for inputs."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from t5x_lite.errors import ConfigError
from t5x_lite.evaluation import likelihood
from t5x_lite.evaluation.likelihood import Text
from t5x_lite.inference.generate import sees_both_ways
from t5x_lite.inference.verbs import string, text_of
from t5x_lite.model.heads import MaskedLMHead


@dataclass(frozen=True, kw_only=True)
class Score:
    """Log-probabilities of texts, or of `targets` after `inputs`, in nats.

    By a decoder as in training: BOS stands in front, and EOS is scored too, unless `eos=False`. By
    an encoder pseudo-log-likelihoods, each token masked in turn, with `within_word` together with
    the later pieces of its word (`evaluation/likelihood.py`); no mark is scored. `head` names the
    masked LM head of a model with several.
    """

    eos: bool = True
    within_word: bool = False
    head: str | None = None

    def check(self, opened) -> None:
        if opened.model.decoder_layers:
            if self.within_word:
                raise ConfigError(
                    f'score: within_word is for masked LMs; {opened.run} has a decoder'
                )
        elif self._head(opened) is None or opened.info.mask is None:
            raise ConfigError(
                f'score: {opened.run} has no decoder and no masked LM head with a [MASK]; its '
                f'heads: {", ".join(opened.heads) or "none"}'
            )

    def prepare(self, opened, example) -> Text:
        if not opened.model.decoder_layers:
            return self._framed(opened, example)
        paired = isinstance(example, Mapping) and 'targets' in example
        if opened.model.encoder_layers and not (paired and 'inputs' in example):
            raise ConfigError("score: an encoder-decoder needs 'inputs' and 'targets'")
        targets = opened.ids(string(example, 'targets') if paired else text_of(example))
        if self.eos and opened.info.eos is not None:
            targets = [*targets, opened.info.eos]
        if not targets:
            raise ConfigError('the text is empty; give it a word')
        inputs, given = [], [opened.start]
        if opened.model.encoder_layers:
            inputs = opened.framed(string(example, 'inputs'))
        elif paired and 'inputs' in example:
            given = [*given, *opened.ids(string(example, 'inputs'))]
        opened.check_length(len(given) + len(targets) - 1)
        return Text(targets, given, inputs=inputs)

    def _framed(self, opened, example) -> Text:
        """A text for a masked LM."""
        if isinstance(example, Mapping) and 'targets' in example:
            raise ConfigError("score: an encoder scores a 'text'; 'targets' are for decoders")
        ids, (front, end) = opened.ids(text_of(example)), opened.marks
        opened.framed(ids)  # refuses an empty or too long one
        return Text(ids, front, end)

    def _head(self, opened) -> str | None:
        return opened.head(self.head, MaskedLMHead, 'masked LM')

    def run(self, opened, prepared: Sequence[Text], numbers) -> list[dict]:
        """{'log_prob': of all, 'tokens': how many, 'log_probs': of each}."""
        if opened.model.decoder_layers:
            found = likelihood.by_decoder(prepared, opened, both_ways=sees_both_ways(opened))
        else:
            own = dict(head=self._head(opened), within_word=self.within_word)
            found = likelihood.by_masked_lm(prepared, opened, opened.info, **own)
        return [
            {
                'log_prob': round(one.total, 5),
                'tokens': len(one.log_probs_T),
                'log_probs': [round(float(x), 5) for x in one.log_probs_T],
            }
            for one in found
        ]
