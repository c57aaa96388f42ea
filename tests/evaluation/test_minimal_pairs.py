"""Minimal pairs: each sentence's score is that of the model called on it alone; files checked."""
# SPDX-License-Identifier: Apache-2.0

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import trained

from t5x_lite import run, sharding, step
from t5x_lite.data.vocabularies import bundled, describe
from t5x_lite.errors import ConfigError
from t5x_lite.evaluation.minimal_pairs import MinimalPairs, Pair, read
from t5x_lite.model.positions import Learned
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.objectives.contrastive import simcse
from t5x_lite.objectives.mlm import mlm
from t5x_lite.objectives.span_corruption import span_corruption

FILES = {
    'agreement': [
        ('The kings of France sleep.', 'The kings of France sleeps.'),
        ('Nobody in this unfortunate house was awake.', 'Nobody in this unfortunate was house.'),
        ('She sees herself.', 'She sees himself.'),
    ],
    'islands': [
        ('Who did they see?', 'Who did they see him?'),
        ('What had John bought and sold?', 'What had John bought books and sold?'),
    ],
}
LENGTHS = {'targets': 32}
OBJECTIVES = {'clm': causal_lm(), 'mlm': mlm()}


def line(good, bad) -> str:
    return json.dumps({'sentence_good': good, 'sentence_bad': bad, 'UID': 'for_a_test'})


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('pairs') / 'blimp'
    path.mkdir()
    for name, pairs in FILES.items():
        (path / f'{name}.jsonl').write_text(''.join(line(*pair) + '\n' for pair in pairs))
    return path


def run_of(name, lengths=LENGTHS, **fields):
    trained.register('minimal_pairs_for_a_test', trained.texts('targets'), {'targets': ['x']})
    return trained.experiment(OBJECTIVES[name], lengths, 'minimal_pairs_for_a_test', **fields)


def params_of(one):
    """Weights with which scores are far apart."""
    louder = lambda x: x * 8.0 if x.ndim > 1 else x
    return jax.tree.map(louder, step.init_state(one).params)


def caller(one, params):
    """The log-probabilities [L, V] that a row of ids has alone."""
    build = step.model_of(one)

    @jax.jit
    def decode(params, ids_1xL):
        model = build(params)
        return jax.nn.log_softmax(model.logits(model.decode(ids_1xL)[0]))[0]

    @jax.jit
    def fill(params, ids_1xL):
        model = build(params)
        return jax.nn.log_softmax(model.heads['mlm'](model.encode(ids_1xL), model))[0]

    own = decode if one.model.decoder_layers else fill
    return lambda ids: np.asarray(own(params, np.array([ids])))


def causal_score(call, sentence, eos) -> float:
    info = describe(bundled())
    ids = [info.pad, *bundled().encode(sentence)] + [info.eos] * eos
    return sum(float(call(ids[:-1])[i, id]) for i, id in enumerate(ids[1:]))


def masked_score(call, sentence, within_word) -> float:
    info, total = describe(bundled()), 0.0
    ids = [info.cls, *bundled().encode(sentence), info.sep]
    for place in range(1, len(ids) - 1):
        masked, later = list(ids), place + 1
        masked[place] = info.mask
        while within_word and later < len(ids) - 1 and info.pieces[ids[later]][0] != '▁':
            masked[later] = info.mask
            later += 1
        total += float(call(masked)[place, ids[place]])
    return total


SETTINGS = [
    ('clm', causal_score, {'eos': False}),
    ('clm', causal_score, {'eos': True}),
    ('mlm', masked_score, {'within_word': False}),
    ('mlm', masked_score, {'within_word': True}),
]


@pytest.mark.one
@pytest.mark.parametrize('name, score, setting', [SETTINGS[3], *SETTINGS[:3]])
def test_accuracies_are_of_each_sentence_alone_whatever_the_batch_and_the_mesh(
    folder, name, score, setting
):
    one = run_of(name)
    params = params_of(one)
    call = caller(one, params)
    right = {
        file: [score(call, good, **setting) > score(call, bad, **setting) for good, bad in pairs]
        for file, pairs in FILES.items()
    }
    expected = {f's/blimp/{file}/accuracy': np.mean(own) for file, own in right.items()}
    expected['s/blimp/accuracy'] = np.mean(right['agreement'] + right['islands'])
    for devices, size in ((8, 128), (1, 5)):
        mesh = sharding.make_mesh(one.mesh, jax.devices()[:devices])
        evaluator = MinimalPairs(path=str(folder), batch_size=size, **setting)
        assert dict(evaluator.open(one, mesh)(params)) == pytest.approx(expected)


@pytest.mark.all
def test_eval_of_a_run_reads_the_pairs_that_its_experiment_names(folder, tmp_path):
    evals = {'pairs': MinimalPairs(path=str(folder))}
    path, params = trained.folder(tmp_path / 'run', run_of('clm', evals=evals))
    found = dict(run.evaluate(path, step=None, split='validation'))
    one = run_of('clm', evals=evals)
    own = dict(evals['pairs'].open(one, sharding.make_mesh(one.mesh))(params))
    assert own.items() <= found.items() and found['s/loss'] > 0


def test_the_files_of_a_folder_are_read_by_name(folder):
    pairs = read(folder)
    assert list(pairs) == ['agreement', 'islands']
    assert pairs['islands'][1] == Pair(*FILES['islands'][1], 'islands.jsonl line 2')
    assert read(folder / 'islands.jsonl') == {'islands': pairs['islands']}


def test_bad_lines_are_named_by_file_and_number_in_one_message(tmp_path):
    lines = [
        line('Good.', 'Bad.'),
        'no JSON',
        line('Good.', 5),
        '"a\u2028b"',
        '[]',
        '',
        *['{}'] * 5,
    ]
    (tmp_path / 'a.jsonl').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    (tmp_path / 'b.jsonl').write_bytes(b'\xff')
    with pytest.raises(ConfigError) as caught:
        read(tmp_path)
    message = str(caught.value)
    assert 'a.jsonl line 1' not in message and 'and 5 more' in message
    assert 'a.jsonl line 2: is no JSON' in message
    assert 'a.jsonl line 3: sentence_bad=5 must be text' in message
    assert all(f'a.jsonl line {n}: must be a JSON object' in message for n in (4, 5))
    assert 'a.jsonl line 7: sentence_good=None must be text' in message


def test_a_file_without_pairs_is_named(tmp_path):
    (tmp_path / 'a.jsonl').write_text(line('Good.', 'Bad.'))
    (tmp_path / 'b.jsonl').write_text('\n')
    with pytest.raises(ConfigError, match='b has no pairs'):
        read(tmp_path)


def test_a_path_that_is_not_there_or_has_no_files_is_said(tmp_path):
    with pytest.raises(ConfigError, match='nope: No such file or directory'):
        read(tmp_path / 'nope')
    with pytest.raises(ConfigError, match=r'has no \*.jsonl files'):
        read(tmp_path)


@pytest.mark.parametrize(
    'good, bad, words',
    [
        ('One.', 'One.', 'a.jsonl line 2: the sentences are equal'),
        ('One two.', 'One\u2581two.', 'a.jsonl line 2: the sentences become the same tokens'),
        ('One.', 'One, ' * 8, 'a.jsonl line 2: takes .* positions, the model has 12'),
    ],
)
def test_pairs_that_no_score_can_tell_apart_and_long_ones_are_refused_at_the_start(
    tmp_path, good, bad, words
):
    one = run_of('mlm', model=dict(positions=Learned(12)), lengths={'targets': 12})
    (tmp_path / 'a.jsonl').write_text(line('A.', 'B.') + '\n' + line(good, bad))
    with pytest.raises(ConfigError, match=words):
        MinimalPairs(path=str(tmp_path)).open(one, sharding.make_mesh(one.mesh))


@pytest.mark.parametrize(
    'objective, fields, words',
    [
        (span_corruption(), {}, 'an encoder-decoder gives targets for inputs'),
        (simcse(), {}, 'needs a masked LM head, the heads are simcse'),
        (mlm(), {'head': 'mlmm'}, "head='mlmm' is no masked LM head; nearest: mlm"),
        (mlm(), {'eos': True}, 'eos=True is for decoders'),
        (mlm(), {'stream': 'z'}, "stream='z' is no stream"),
        (mlm(), {'every': 0}, 'every=0 must be an integer of 1 or more'),
        (causal_lm(), {'within_word': True}, 'are for masked LMs, but the model is a decoder'),
    ],
)
def test_what_does_not_fit_the_model_is_refused_when_the_experiment_is_built(
    objective, fields, words
):
    lengths = LENGTHS | ({'inputs': 64} if len(objective.forward.needs) == 2 else {})
    with pytest.raises(ConfigError, match=words):
        evals = {'pairs': MinimalPairs(path='nowhere', **fields)}
        trained.experiment(objective, lengths, evals=evals)
