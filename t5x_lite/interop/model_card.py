"""A model card, README.md of an exported folder: what the run's own files say of it, no more."""
# SPDX-License-Identifier: Apache-2.0

import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from t5x_lite import __version__, printing
from t5x_lite.errors import ConfigError
from t5x_lite.interop import files
from t5x_lite.metrics import load_metrics

# What the Hub calls the use of an architecture, by the end of its name; others have no tag.
USES = {
    'ForMaskedLM': 'fill-mask',
    'ForSequenceClassification': 'text-classification',
    'ForTokenClassification': 'token-classification',
    'ForQuestionAnswering': 'question-answering',
    'ForCausalLM': 'text-generation',
    'LMHeadModel': 'text-generation',
    'EncoderModel': 'feature-extraction',
    'Model': 'feature-extraction',
}
SIZES = {
    'encoder_layers': 'encoder layers',
    'decoder_layers': 'decoder layers',
    'embed': 'width',
    'heads': 'attention heads',
    'mlp': 'feed-forward width',
    'vocab': 'vocabulary',
}


def card(
    run: Path,
    model,
    folder: Path,
    *,
    step: int,
    license: str | None = None,
    language: str | None = None,
) -> str:
    """The card of a run's exported checkpoint, with the front matter that the Hub reads.

    `folder` has the exported files. Licence and language are as given, else left out.
    """
    config, name = files.read_json(folder / 'config.json'), run.resolve().name
    parameters = sum(math.prod(x.shape) for x in files.read_folder(folder).values())
    parts = [
        front_matter(config, license=license, language=language),
        f'# {name}',
        *_lines('Model', _model(model, config, parameters)),
    ]
    if (run / 'experiment.py').is_file():
        parts += _training(run, step)
    parts.append(f'Exported by t5x_lite {__version__}.')
    return '\n\n'.join(parts) + '\n'


def front_matter(config: Mapping[str, Any], *, license=None, language=None) -> str:
    """YAML between two lines of `---`; a JSON string is a YAML string."""
    (architecture,) = config['architectures']
    use = next((use for end, use in USES.items() if architecture.endswith(end)), None)
    fields = {
        'library_name': 'transformers',
        'pipeline_tag': use,
        'license': license,
        'language': language,
        'tags': ['t5x_lite', config['model_type']],
    }
    known = (f'{key}: {json.dumps(value)}' for key, value in fields.items() if value is not None)
    return '\n'.join(['---', *known, '---'])


def _model(model, config, parameters: int) -> Iterator[tuple[str, Any]]:
    yield 'architecture', f'`{config["architectures"][0]}`'
    yield 'parameters', f'{parameters:,}'
    for field, told in SIZES.items():
        if value := getattr(model, field):
            yield told, f'{value:,}'
    if model.positions.max_length:
        yield 'longest text', f'{model.positions.max_length:,} tokens'


def _training(run: Path, step: int) -> Iterator[str]:
    """What experiment.py, run.json and metrics.jsonl say."""
    from t5x_lite import config

    experiment = config.load(run / 'experiment.py').experiment
    yield from _lines('Training', _facts(run, experiment, step))
    yield '\n'.join(
        ['| stream | mixture | tasks | terms |', '|---|---|---|---|', *_data(experiment)]
    )
    values = {'streams': experiment.streams, 'optimizer': experiment.optimizer}
    values |= {n: v for n in ('init', 'adapt') if (v := getattr(experiment, n)) is not None}
    code = '\n'.join(printing.assignment(value, name) for name, value in values.items())
    yield f'```python\n{code}\n```'
    yield from _lines('Evaluation', _scores(run, experiment, step))


def _facts(run: Path, experiment, step: int) -> Iterator[tuple[str, Any]]:
    yield 'steps', f'{step:,} of {experiment.steps:,}'
    seen = step * experiment.tokens_per_step
    yield 'tokens seen', f'{seen:,} (places of batches, padding included)'
    if (run / 'run.json').is_file():
        facts = json.loads((run / 'run.json').read_text(encoding='utf-8'))
        yield 'command', f'`{facts["command"]}`'
        yield 'devices', facts['devices']
        yield 'versions', ', '.join(f'{k} {v}' for k, v in facts['versions'].items())


def _data(experiment) -> Iterator[str]:
    """A row of the table for each stream."""
    for name, stream in experiment.streams.items():
        terms = ', '.join(
            f'{n} ({type(t.loss).__name__})' for n, t in stream.objective.terms.items()
        )
        yield f'| {name} | `{stream.mixture}` | {_tasks(experiment, stream)} | {terms} |'


def _tasks(experiment, stream) -> str:
    """The tasks of a mixture, with their rates where those are numbers; '' if they are unknown."""
    from t5x_lite.data import seqio_source

    try:
        rates = seqio_source.rates(stream.mixture, 'train', stream.rates, experiment.imports)
    except ConfigError as error:
        print(f'model card: no tasks of {stream.mixture!r}: {error}', file=sys.stderr)
        return ''
    if len(rates) == 1:
        return f'`{next(iter(rates))}`'
    told = lambda rate: '' if callable(rate) else f' at rate {rate:g}'
    return ', '.join(f'`{task}`{told(rate)}' for task, rate in rates.items())


def _scores(run: Path, experiment, step: int) -> Iterator[tuple[str, str]]:
    """Each metric of an evaluation, the newest up to that step, and the splits that were read."""
    splits = {name: getattr(e, 'split', None) for name, e in experiment.evals.items()}
    if named := [f'`{split}` ({name})' for name, split in splits.items() if split]:
        yield 'splits', f'trained on `train`; evaluated on {", ".join(named)}'
    if not (run / 'metrics.jsonl').is_file():
        return
    found = {}
    for row in load_metrics(run / 'metrics.jsonl'):
        if row['step'] <= step:
            own = {n: x for n, x in row.items() if n.startswith('eval/')}
            found |= {name: (value, row['step']) for name, value in own.items()}
    for name, (value, at) in sorted(found.items()):
        yield name.removeprefix('eval/'), f'{value:.5g} (step {at:,})'


def _lines(title: str, facts) -> list[str]:
    """A heading and a list; nothing if there are no facts."""
    items = [f'- {name}: {value}' for name, value in facts]
    return [f'## {title}', '\n'.join(items)] if items else []
