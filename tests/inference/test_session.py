"""Session: each verb gives what the run's own objective says, whatever stands beside it."""
# SPDX-License-Identifier: Apache-2.0

import functools

import jax
import numpy as np
import pytest
import seqio
import trained

from t5x_lite import step
from t5x_lite.data.vocabularies import bundled, describe
from t5x_lite.errors import ConfigError
from t5x_lite.inference.session import Session
from t5x_lite.model.positions import Learned
from t5x_lite.model.sampling import Beam, Sampling
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.objectives.classification import classification, regression
from t5x_lite.objectives.contrastive import simcse
from t5x_lite.objectives.mlm import mlm
from t5x_lite.objectives.multiple_choice import multiple_choice
from t5x_lite.objectives.pairs import dual_encoder
from t5x_lite.objectives.similarity import pool_mean
from t5x_lite.objectives.span_qa import span_qa
from t5x_lite.objectives.supervised import lm, seq2seq
from t5x_lite.objectives.tagging import tagging
from t5x_lite.sharding import MeshShape
from t5x_lite.tuning.prompt import Prompt

TEXTS = ['It was a dark and stormy night.', 'Hello', 'The king of France, who was old,']
ENCODER = dict(targets=32)
PAIR = dict(inputs=24, targets=16)
RUNS = {
    'clm': (causal_lm(join=False), dict(targets=32)),
    'seq2seq': (seq2seq(), PAIR),
    'lm': (lm(), PAIR),
    'prefix': (lm(prefix=True), PAIR),
    'mlm': (mlm(), ENCODER),
    'simcse': (simcse(pool=pool_mean), ENCODER),
    'dual': (dual_encoder(separate=True), PAIR),
    'classes': (classification(labels=3), dict(inputs=24)),
    'pair': (classification(labels=2, texts=('premise', 'hypothesis')), dict(inputs=24)),
    'number': (regression(), dict(inputs=24)),
    'tags': (tagging(tags=('O', 'B-x', 'I-x')), dict(inputs=24)),
    'choice': (multiple_choice(choices=2), dict(inputs=24)),
    'answer': (span_qa(question_length=8, stride=4), dict(inputs=32)),
}


@pytest.fixture(scope='module')
def opened(tmp_path_factory):
    """(session, experiment, parameters) of a run by its name, made once."""

    @functools.cache
    def make(name, **fields):
        objective, lengths = RUNS[name]
        features = trained.texts('inputs', 'targets', 'premise', 'hypothesis', 'context')
        features = {n: f for n, f in features.items() if n in objective.converter.features}
        others = [n for n in objective.converter.features if n not in features]
        number = seqio.Feature(seqio.PassThroughVocabulary(99), add_eos=False)
        features |= dict.fromkeys(others, number)
        features |= {n: f for n, f in trained.texts(*others).items() if n.startswith('choice')}
        features |= {n: f for n, f in trained.texts(*others).items() if n == 'question'}
        trained.register(f'{name}_for_a_test', features, {n: ['x'] for n in features})
        run = trained.experiment(objective, lengths, f'{name}_for_a_test')
        folder, params = trained.folder(tmp_path_factory.mktemp(name), run)
        return Session(folder, **fields), run, params

    return make


def whole_pass(run, params, examples):
    """The objective's model, and one batch of the examples by its own converter."""
    stream, info = run.streams['s'], describe(bundled())
    converter = stream.objective.converter
    cutter = converter.cutter(stream.lengths, info)
    for example in examples:
        cutter.add({n: np.array(bundled().encode(t), np.int32) for n, t in example.items()})
    cutter.flush()
    rows = cutter.take(cutter.ready())
    batch = converter.batch(rows, stream.lengths, info, np.full((len(examples), 99), 0.5))
    return step.model_of(run)(params), batch


def log_probs(run, params, examples):
    """Of each example's scored tokens: their sum."""
    model, batch = whole_pass(run, params, examples)
    outputs = run.streams['s'].objective.forward(model, batch, None)
    scores = jax.nn.log_softmax(model.logits(outputs['decoder_hidden']))
    own = np.take_along_axis(np.asarray(scores), batch['decoder_target_tokens'][..., None], -1)
    return (own[..., 0] * batch['decoder_loss_weights']).sum(axis=1)


def test_a_text_s_score_is_the_objective_s_own(opened):
    session, run, params = opened('clm')
    found = [one['log_prob'] for one in session.score(TEXTS)]
    np.testing.assert_allclose(found, log_probs(run, params, [{'targets': t} for t in TEXTS]), 1e-4)
    assert all(one['tokens'] == len(one['log_probs']) for one in session.score(TEXTS))
    shorter = session.score(TEXTS, eos=False)[1]
    assert shorter['tokens'] == len(bundled().encode('Hello'))


@pytest.mark.parametrize('within_word', [True, False])
def test_a_masked_lm_scores_each_token_masked_alone_or_with_its_word_s_later_pieces(
    opened, within_word
):
    session, run, params = opened('mlm')
    info, texts = describe(bundled()), ['Antidisestablishmentarians, who', 'The cat']
    pieces = [[info.pieces[i] for i in bundled().encode(text)] for text in texts]
    assert sum(piece[0] != '▁' for piece in pieces[0]) > 3
    model = step.model_of(run)(params)
    for found, text in zip(session.score(texts, within_word=within_word), texts, strict=True):
        ids = [info.cls, *bundled().encode(text), info.sep]
        rows = np.array([ids] * (len(ids) - 2))
        for i, row in enumerate(rows):
            row[i + 1] = info.mask
            for later in range(i + 2, len(ids) - 1):
                if not within_word or info.pieces[ids[later]][0] == '▁':
                    break
                row[later] = info.mask
        scores = jax.nn.log_softmax(model.heads['mlm'](model.encode(rows), model))
        expected = [scores[i, i + 1, id] for i, id in enumerate(ids[1:-1])]
        np.testing.assert_allclose(found['log_probs'], expected, atol=1e-4)
        assert found['log_prob'] == pytest.approx(sum(found['log_probs']), abs=1e-3)


@pytest.mark.parametrize('name', ['clm', 'mlm'])
def test_batch_and_mesh_change_no_score(opened, name):
    few = opened(name, batch_size=1, mesh=MeshShape(data=1, fsdp=4, model=2))[0].score(TEXTS)
    for one, other in zip(opened(name)[0].score(TEXTS), few, strict=True):
        np.testing.assert_allclose(one['log_probs'], other['log_probs'], atol=2e-5)


@pytest.mark.parametrize('name', ['seq2seq', 'lm', 'prefix'])
def test_targets_are_scored_and_written_after_inputs_as_in_training(opened, name):
    session, run, params = opened(name)
    written = session.generate(TEXTS, length=4)
    pairs = [
        {'inputs': text, 'targets': bundled().decode(one['tokens'])}
        for text, one in zip(TEXTS, written, strict=True)
    ]
    found = session.score(pairs)
    scored = log_probs(run, params, pairs)
    np.testing.assert_allclose([one['log_prob'] for one in found], scored, rtol=1e-4, atol=1e-4)
    for one, again in zip(written, found, strict=True):
        if bundled().encode(bundled().decode(one['tokens'])) == one['tokens']:
            np.testing.assert_allclose(again['log_probs'][:4], one['log_probs'], atol=1e-4)


@pytest.mark.parametrize('how', [Sampling(samples=2), Beam(size=2, returned=2)])
def test_batch_and_mesh_change_no_text(opened, how):
    sessions = [
        opened('clm')[0],
        opened('clm', batch_size=1, mesh=MeshShape(data=1, fsdp=4, model=2))[0],
    ]
    many, few = (s.generate(TEXTS, length=6, how=how, seed=3) for s in sessions)
    assert [one['tokens'] for one in many] == [one['tokens'] for one in few]
    assert [one['more'][0]['text'] for one in many] == [one['more'][0]['text'] for one in few]
    assert many[0]['tokens'] != many[0]['more'][0]['tokens']


def test_a_stop_ends_a_text_in_front_of_it(opened):
    session, _, _ = opened('clm')
    [free] = session.generate(TEXTS[:1], length=8)
    stop = free['text'][4:7]
    [cut] = session.generate(TEXTS[:1], length=8, stops=(stop,))
    assert stop not in cut['text'] and free['text'].startswith(cut['text'])


def test_every_mask_gets_the_head_s_likeliest_tokens(opened):
    session, run, params = opened('mlm')
    info = describe(bundled())
    two, one = session.fill(['The [MASK] of [MASK].', 'A [MASK].'], top=3)
    assert [len(x['masks']) for x in (two, one)] == [2, 1]
    ids = [info.cls, *bundled().encode('A'), info.mask, *bundled().encode('.'), info.sep]
    model = step.model_of(run)(params)
    hidden = model.encode(np.array([ids]))
    shares = jax.nn.softmax(model.heads['mlm'](hidden, model)[0, ids.index(info.mask)])
    best = np.argsort(-shares)[:3]
    assert [c['token'] for c in one['masks'][0]] == [info.pieces[i] for i in best]
    np.testing.assert_allclose([c['p'] for c in one['masks'][0]], shares[best], atol=1e-5)


def test_vectors_are_those_of_the_objective_without_its_training_time_layer(opened):
    session, run, params = opened('simcse')
    short = ['A dark night.', 'Hello there.']
    model, batch = whole_pass(run, params, [{'targets': t} for t in short])
    outputs = run.streams['s'].objective.forward(model, batch, None)
    loss = run.streams['s'].objective.terms['simcse'].loss
    expected = loss.embed(model, None, outputs, batch)['encoder_hidden']
    found = np.array([one['embedding'] for one in session.embed(short)])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    alone = np.array(session.embed(short[1:])[0]['embedding'])
    np.testing.assert_allclose(alone, found[1], atol=1e-5)
    cut = session.embed([short[0], short[0] + ' And more.'], max_length=4)
    assert cut[0] == cut[1]


def test_keys_go_through_the_encoder_and_the_projection_of_their_own(opened):
    session, run, params = opened('dual')
    model, info = step.model_of(run)(params), describe(bundled())
    row = np.array([[*bundled().encode('Hello there.'), info.eos]])  # marks='eos'
    for side, tower in enumerate((model, model.heads['passage_encoder'])):
        mean = tower.encode(row).mean(axis=1)
        vector = model.heads['dual_encoder'](mean, side)[0]
        [found] = session.embed(['Hello there.'], side=side)
        expected = vector / np.linalg.norm(vector)
        np.testing.assert_allclose(found['embedding'], expected, atol=1e-5)


def test_classes_numbers_choices_tags_and_answers_are_predicted(opened):
    one, two = opened('classes')[0].classify(TEXTS[:2])
    assert one['prediction'] == int(np.argmax(one['probabilities'])) and len(two) == 2
    assert sum(one['probabilities']) == pytest.approx(1, abs=1e-5)
    session = opened('pair')[0]
    pair = {'premise': TEXTS[0], 'hypothesis': TEXTS[2]}
    assert session.classify([pair])[0]['prediction'] in (0, 1)
    assert isinstance(opened('number')[0].classify(TEXTS)[2]['prediction'], float)
    words = ['John', 'lives', 'in', 'Constantinople', '.']
    [told] = opened('tags')[0].classify([{'words': words}])
    assert len(told['prediction']) == 5 and {*told['prediction']} <= {'O', 'B-x', 'I-x'}
    choice = {'inputs': 'It rains', 'choice_0': 'a', 'choice_1': 'b'}
    assert opened('choice')[0].classify([choice] * 2)[1]['prediction'] in (0, 1)
    asked = {'question': 'Who?', 'context': ' '.join(TEXTS * 3)}
    [told] = opened('answer')[0].classify([asked])
    assert told['prediction'] in asked['context']


@pytest.mark.parametrize(
    'name, verb, example, words',
    [
        ('mlm', 'generate', 'x', 'has no decoder; see fill'),
        ('clm', 'fill', 'x [MASK]', 'has no masked LM head; its heads: none'),
        ('mlm', 'fill', 'x', r'example 1: the text has no \[MASK\]'),
        ('tags', 'classify', {'words': ['x', 1]}, "'words' must be a list of strings"),
        ('tags', 'classify', [1, 2], "must have 'words', a list of strings"),
        ('seq2seq', 'generate', {'inputs': ['x']}, "'inputs' must be a string"),
        ('mlm', 'classify', 'x', 'has no classifier; its streams: s, its heads: mlm'),
        ('pair', 'classify', 'x', "example 1: must have 'premise', a string"),
        ('tags', 'classify', {'words': 'x'}, "must have 'words', a list of strings"),
        ('clm', 'score', {'nope': 1}, "must be a string, or have 'text' or 'inputs'"),
        (
            'simcse',
            'score',
            'x',
            r'no decoder and no masked LM head with a \[MASK\]; its heads: simc',
        ),
        ('mlm', 'score', {'inputs': 'x', 'targets': 'y'}, "'targets' are for decoders"),
        ('clm', 'score', {'text': 5}, "'text' must be a string, not 5"),
        ('seq2seq', 'score', 'x', "needs 'inputs' and 'targets'"),
        ('mlm', 'embed', '', 'the text is empty'),
    ],
)
def test_what_cannot_be_used_is_said(opened, name, verb, example, words):
    session = opened(name)[0]
    good = {'pair': {'premise': 'a', 'hypothesis': 'b'}, 'mlm': 'a [MASK]'}.get(name, example)
    with pytest.raises(ConfigError, match=words):
        getattr(session, verb)([good, example])


def test_a_text_alone_or_a_setting_that_makes_no_sense_is_refused(opened):
    session = opened('clm')[0]
    with pytest.raises(ConfigError, match='must be a list, even of one'):
        session.generate('x')
    with pytest.raises(ConfigError, match='length=0 must be'):
        session.generate(['x'], length=0)
    with pytest.raises(ConfigError, match="pool='men' is unknown; nearest: mean"):
        session.embed(['x'], pool='men')
    assert session.generate([]) == []


@pytest.mark.parametrize('name, adapt', [('clm', Prompt(length=30)), ('seq2seq', None)])
def test_no_text_takes_more_positions_than_the_model_has(name, adapt, tmp_path):
    objective, lengths = RUNS[name]
    trained.register('texts_of_positions', trained.texts('inputs', 'targets'), {'targets': ['x']})
    lengths = {feature: 8 for feature in lengths}
    model = dict(positions=Learned(64), dropout=0.0)
    made = trained.experiment(objective, lengths, 'texts_of_positions', model, adapt=adapt)
    session = Session(trained.folder(tmp_path / 'run', made)[0])
    text = 'It was a dark'
    if adapt:  # 34 are left
        with pytest.raises(ConfigError, match='the model has 34 beside the 30 of its prompt'):
            session.generate([text], length=34)
        with pytest.raises(ConfigError, match='the model has 34 beside the 30 of its prompt'):
            session.embed(['word ' * 50])
        (vector,) = session.embed(['word ' * 20])
        assert np.isfinite(vector['embedding']).all()
    else:
        with pytest.raises(ConfigError, match='length=65 must be at most the 64 positions'):
            session.generate([text], length=65)
    (found,) = session.generate([text], length=28)
    assert np.isfinite(found['score']) and np.isfinite(found['log_probs']).all()
