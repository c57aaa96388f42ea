"""A run as a language model of the lm-evaluation-harness: likelihoods and texts for its tasks."""
# SPDX-License-Identifier: Apache-2.0
# Written for lm-eval 0.4.13: lm_eval.api.model.TemplateLM.

import json
from collections.abc import Mapping, Sequence

from t5x_lite.errors import ConfigError
from t5x_lite.evaluation import likelihood
from t5x_lite.evaluation.batches import by_length
from t5x_lite.evaluation.likelihood import Text, TokenScores
from t5x_lite.inference.generate import Generate, sees_both_ways
from t5x_lite.inference.session import Session
from t5x_lite.model.sampling import GREEDY, Sampling

try:
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import normalize_gen_kwargs
except ImportError as error:
    raise ConfigError(
        f"lm_eval_adapter: lm-eval cannot be imported ({error}); pip install 't5x_lite[lm-eval]'"
    ) from error

UNKNOWN_LENGTH = 2048  # the harness's own, where nothing says how long rows may be
WRITTEN = 256  # the harness's own number of tokens where a task does not say


class SessionLM(TemplateLM):
    """A session's decoder, or encoder-decoder, for `lm_eval.simple_evaluate(model=...)`.

    Rows begin with BOS (or pad), as in training, also where the context is cut, from the left, to
    fit. The windows of `loglikelihood_rolling` are the harness's: only the first one has BOS. An
    encoder-decoder reads the context and is asked for the rest; it has no rolling likelihood.

    Args:
      max_length: tokens of a row; None: the model's positions, or the longest row of its training.

    Raises:
      ConfigError: the run is an encoder alone; a `max_length` that the model does not have.
    """

    def __init__(self, session: Session, *, max_length: int | None = None):
        super().__init__()
        opened = self._opened = session.opened
        if not opened.model.decoder_layers:
            raise ConfigError(
                f'SessionLM: {opened.run} has no decoder; evaluation/minimal_pairs.py and '
                'interop/mteb_adapter.py are for encoders'
            )
        if max_length is not None and max_length < 4:
            raise ConfigError(f'SessionLM: max_length={max_length} must be 4 or more')
        self.backend = 'seq2seq' if opened.model.encoder_layers else 'causal'
        self.max_length = max_length or opened.longest_row or UNKNOWN_LENGTH
        opened.check_length(self.max_length)

    @property
    def eot_token_id(self) -> int:
        return self.prefix_token_id if self._opened.info.eos is None else self._opened.info.eos

    @property
    def prefix_token_id(self) -> int:
        return self._opened.start

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_) -> list[int]:
        return self._opened.ids(string)

    def get_model_info(self) -> dict[str, str]:
        """What the harness writes beside its results."""
        return {'model_run': str(self._opened.run), 'model_step': str(self._opened.step)}

    # -- likelihoods ------------------------------------------------------------------------------

    def _loglikelihood_tokens(self, requests, disable_tqdm: bool = False, **_):
        """[(log-probability of the continuation, whether greedy decoding would write it)]."""
        texts = [self._text(*request) for request in requests]
        found = [(one.total, bool(one.likeliest_T.all())) for one in self._scored(texts)]
        for (pair, *_), result in zip(requests, found, strict=True):
            self.cache_hook.add_partial('loglikelihood', pair, result)
        return found

    def _text(self, pair: tuple[str, str], context: list[int], targets: list[int]) -> Text:
        if not targets or len(targets) > self.max_length:
            raise ConfigError(
                f'SessionLM: the continuation {pair[1]!r:.60} has {len(targets)} tokens behind its '
                f'context; it must have 1 to {self.max_length}'
            )
        start = [self.prefix_token_id]
        if context[:1] == start:  # the harness puts it where there is no context
            context = context[1:]
        if self.backend == 'seq2seq':
            return Text(targets, start, inputs=self._read(context))
        room = self.max_length - len(targets)  # beside BOS; the last target is not read
        return Text(targets, [*start, *context[max(0, len(context) - room) :]])

    def _read(self, context: list[int]) -> list[int]:
        """What the encoder reads, the context cut from the left."""
        if not context:
            raise ConfigError(
                'SessionLM: an encoder-decoder needs a context, which this task does not give'
            )
        room = self.max_length - sum(map(len, self._opened.marks))
        return self._opened.framed(context[-room:])

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        if self.backend == 'seq2seq':
            raise ConfigError(
                'SessionLM: an encoder-decoder has no rolling likelihood; leave out tasks whose '
                'output_type is loglikelihood_rolling'
            )
        own = dict(prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1)
        texts, counts = [], []
        for request in requests:
            windows = list(utils.get_rolling_token_windows(self.tok_encode(request.args[0]), **own))
            given = (utils.make_disjoint_window(window) for window in windows)
            texts += [Text(targets, context) for context, targets in given]
            counts.append(len(windows))
        totals = iter([one.total for one in self._scored(texts)])
        found = [sum(next(totals) for _ in range(count)) for count in counts]
        for request, total in zip(requests, found, strict=True):
            self.cache_hook.add_partial('loglikelihood_rolling', request.args, total)
        return found

    def _scored(self, texts: Sequence[Text]) -> list[TokenScores]:
        both_ways = sees_both_ways(self._opened)
        score = lambda part: likelihood.by_decoder(part, self._opened, both_ways=both_ways)
        return by_length(texts, lambda text: len(text.row) + len(text.inputs), score)

    # -- texts ------------------------------------------------------------------------------------

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        alike: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            alike.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(i)
        found = [''] * len(requests)
        for settings, numbers in alike.items():
            verb = _verb(json.loads(settings), min(WRITTEN, self.max_length // 2))
            prompts = [(i, self._prompt(requests[i].args[0], verb.length)) for i in numbers]
            run = lambda part, verb=verb: verb.run(
                self._opened, [prompt for _, prompt in part], [i for i, _ in part]
            )
            told = by_length(prompts, lambda prompt: len(prompt[1]), run)
            for i, one in zip(numbers, told, strict=True):
                found[i] = one['text']
                self.cache_hook.add_partial('generate_until', requests[i].args, one['text'])
        return found

    def _prompt(self, context: str, length: int) -> list[int]:
        """A row for Generate, the context cut from the left."""
        ids = self.tok_encode(context)
        if self.backend == 'seq2seq':
            return self._read(ids)
        room = self.max_length - 1 - length  # beside BOS
        if room < 1:
            raise ConfigError(
                f'SessionLM: max_gen_toks={length} leaves no room for a context in '
                f'{self.max_length} positions; ask for {self.max_length - 2} or less'
            )
        return [self.prefix_token_id, *ids[-room:]]


def _verb(settings: Mapping, length: int) -> Generate:
    """What a task's generation settings mean here; ConfigError for those that mean nothing."""
    own = dict(normalize_gen_kwargs(settings, length))
    draws = own.pop('do_sample')
    kept = {name: own.pop(name) for name in ('temperature', 'top_k', 'top_p') if name in own}
    stops, length = own.pop('until'), own.pop('max_gen_toks')
    if own:
        raise ConfigError(
            f'SessionLM: generation settings {", ".join(own)} are not known; known: do_sample, '
            'temperature, top_k, top_p, until, max_gen_toks'
        )
    how = Sampling(**kept) if draws else GREEDY
    return Generate(length=length, how=how, stops=tuple(stop for stop in stops if stop))
