"""How much text known mixtures hold, for what must not open them: numbers shipped, and measured."""
# SPDX-License-Identifier: Apache-2.0

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Size(NamedTuple):
    """The training split of a task."""

    documents: int
    tokens: int


class Sizes(NamedTuple):
    """A mixture's tasks, and how often a document is drawn from each, any numbers."""

    tasks: Mapping[str, Size]
    rates: Mapping[str, float]


# As `t5x-lite data stats NAME --documents 1000000` counts them, with the bundled vocabulary.
SHIPPED = {
    'corpus_en_pd': Sizes({'corpus_en_pd': Size(334, 1_661_009)}, {'corpus_en_pd': 1}),
    'corpus_en_pd_mix': Sizes(
        {'austen': Size(239, 835_883), 'sotu': Size(95, 825_126)}, {'austen': 239, 'sotu': 95}
    ),
    'austen': Sizes({'austen': Size(239, 835_883)}, {'austen': 1}),
    'sotu': Sizes({'sotu': Size(95, 825_126)}, {'sotu': 1}),
    'wiki_topics': Sizes({'wiki_topics': Size(1_900, 285_203)}, {'wiki_topics': 1}),
    'wiki_entities': Sizes({'wiki_entities': Size(1_900, 285_203)}, {'wiki_entities': 1}),
}


def default_data_dir() -> Path:
    """`$T5X_LITE_DATA_DIR`, or a folder in the user's cache."""
    return Path(os.environ.get('T5X_LITE_DATA_DIR') or '~/.cache/t5x_lite/tfds').expanduser()


def _file(mixture: str) -> Path:
    return default_data_dir() / 'sizes' / f'{mixture}.json'


def of(mixture: str) -> Sizes | None:
    """What was measured on this machine, or is shipped; None if neither is there."""
    file = _file(mixture)
    if not file.exists():
        return SHIPPED.get(mixture)
    found = json.loads(file.read_text(encoding='utf-8'))
    return Sizes({task: Size(*size) for task, size in found['tasks'].items()}, found['rates'])


def remember(mixture: str, sizes: Sizes) -> Path:
    """Writes down what was measured, for later; the file."""
    file = _file(mixture)
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_suffix(f'.{os.getpid()}')
    scratch.write_text(json.dumps(sizes._asdict()), encoding='utf-8')
    os.replace(scratch, file)
    return file


def epochs(sizes: Sizes, tokens: float) -> dict[str, float]:
    """How often each task is read when that many tokens are drawn from the mixture."""
    mean = {task: size.tokens / max(size.documents, 1) for task, size in sizes.tasks.items()}
    drawn = {task: sizes.rates[task] * mean[task] for task in sizes.tasks}
    whole = sum(drawn.values())
    return {
        task: tokens * drawn[task] / whole / size.tokens
        for task, size in sizes.tasks.items()
        if size.tokens and whole
    }
