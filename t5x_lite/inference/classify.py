"""Classify: the class, number, choice, tags or answer that a fine-tuned run gives an example."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t5x_lite.data.vocabularies import describe
from t5x_lite.errors import ConfigError
from t5x_lite.evaluation import predict
from t5x_lite.inference.verbs import text_of


@dataclass(frozen=True, kw_only=True)
class Classify:
    """What the run's classification, regression, tagging, span_qa or multiple_choice predicts.

    An example has the texts that the objective reads by their names, such as `inputs`, or
    `premise` and `hypothesis`; one text may come alone. A tagger's has `words`. Texts are cut as in
    training. `stream` names the stream of a run with several that predict.
    """

    stream: str | None = None

    def _stream(self, opened):
        name = opened.stream(self.stream, lambda o: _term(o) is not None, 'classifier')
        return name, opened.experiment.streams[name]

    def check(self, opened) -> None:
        self._stream(opened)

    def prepare(self, opened, example) -> Mapping[str, np.ndarray]:
        """The example's rows: one, or of a long text several."""
        name, stream = self._stream(opened)
        vocabulary, converter = opened.vocabulary_of(name), stream.objective.converter
        info = describe(vocabulary)
        cutter = converter.cutter(stream.lengths, info)
        cutter.add(_features(converter, vocabulary, example))
        if not cutter.ready():
            raise ConfigError('the text is empty; give it a word')
        rows = cutter.take(cutter.ready())
        numbers = np.zeros((len(next(iter(rows.values()))), converter.draws(stream.lengths)))
        return converter.batch(rows, stream.lengths, info, numbers)

    def run(self, opened, prepared: Sequence[Mapping[str, np.ndarray]], numbers) -> list[dict]:
        """{'prediction', and of classes 'probabilities'}."""
        name, stream = self._stream(opened)
        joined = {key: np.concatenate([rows[key] for rows in prepared]) for key in prepared[0]}
        term = _term(stream.objective)
        found = opened.compute(_predicted, joined, opened=opened, stream=name, term=term)
        loss = stream.objective.terms[term].loss
        shares_NxC = found.pop('probabilities', None)
        info = describe(opened.vocabulary_of(name))
        predictions, _ = getattr(loss, 'collect', predict.collect)(found, info)
        out = [{'prediction': _plain(value)} for value in predictions]
        for told, shares_C in zip(out, shares_NxC if shares_NxC is not None else [], strict=False):
            told['probabilities'] = [round(float(x), 6) for x in shares_C]
        return out


def _term(objective) -> str | None:
    """The name of an objective's term that predicts."""
    terms = objective.terms
    return next((name for name in terms if hasattr(terms[name].loss, 'predict')), None)


def _features(converter, vocabulary, example) -> dict[str, Any]:
    """The ids of what an objective reads; labels, which nobody knows yet, are 0."""
    label = getattr(converter, 'label', 'label')
    texts = [n for n in converter.features if n not in (label, 'tags', 'words', 'answers')]
    if 'words' in converter.features:
        from t5x_lite.data import tagged_task

        words = _given(example, 'words', list)
        if not all(isinstance(word, str) for word in words):
            raise ConfigError(f"'words' must be a list of strings: {words!r:.80}")
        pieces, numbers = tagged_task.pieces([w.encode() for w in words], vocabulary)
        return {'inputs': pieces, 'words': numbers, 'tags': np.zeros(len(words), np.int32)}
    if not isinstance(example, Mapping) and len(texts) == 1:
        example = {texts[0]: text_of(example)}
    ids = {
        name: np.array(vocabulary.encode(_given(example, name, str)), np.int32) for name in texts
    }
    return ids | {label: np.zeros((), np.int32), 'answers': np.zeros((0, 2), np.int32)}


def _given(example, name: str, kind: type):
    value = example.get(name) if isinstance(example, Mapping) else None
    if not isinstance(value, kind):
        what = 'a string' if kind is str else 'a list of strings'
        raise ConfigError(f"must have '{name}', {what}: {example!r:.80}")
    return value


def _plain(value):
    return value.item() if hasattr(value, 'item') else value


def _predicted(model, batch, *, opened, stream: str, term: str):
    objective = opened.experiment.streams[stream].objective
    head = model.heads[term] if term in model.heads else None
    outputs = objective.forward(model, batch, None)
    return objective.terms[term].loss.predict(model, head, outputs, batch)
