"""The harness's requests are answered by the run's own scores and texts, in its own evaluation."""
# SPDX-License-Identifier: Apache-2.0

import json
import types

import jax
import numpy as np
import pytest
import trained

from t5x_lite import sharding, step
from t5x_lite.data.vocabularies import bundled
from t5x_lite.errors import ConfigError
from t5x_lite.evaluation.minimal_pairs import MinimalPairs
from t5x_lite.inference.session import Session
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.objectives.mlm import mlm
from t5x_lite.objectives.supervised import seq2seq

lm_eval = pytest.importorskip('lm_eval', reason="needs pip install 't5x_lite[lm-eval]'")

PAIRS = [
    ('The kings of France sleep.', 'The kings of France sleeps.'),
    ('She sees herself.', 'She sees himself.'),
    ('Who did they see?', 'Who did they see him?'),
    ('A dark night.', 'A night dark.'),
]


def session_of(tmp_path_factory, name, objective, lengths):
    features = objective.converter.features
    task = f'{name}_for_lm_eval'
    trained.register(task, trained.texts(*features), {n: ['x'] for n in features})
    run = trained.experiment(objective, lengths, task)
    folder, params = trained.folder(tmp_path_factory.mktemp(name), run)
    return Session(folder), run, params


@pytest.fixture(scope='module')
def causal(tmp_path_factory):
    return session_of(tmp_path_factory, 'clm', causal_lm(), {'targets': 32})


def lm_of(session, **fields):
    from t5x_lite.interop.lm_eval_adapter import SessionLM

    return SessionLM(session, **fields)


def requests(*arguments):
    return [types.SimpleNamespace(args=args) for args in arguments]


def test_a_row_is_as_long_as_in_training(causal):
    assert lm_of(causal[0]).max_length == 32


def test_a_continuation_s_likelihood_is_its_score_and_greedy_if_it_would_be_written(causal):
    session, *_ = causal
    lm = lm_of(session)
    context = 'The king of'
    [told] = session.generate([context], length=3)
    ids, written = bundled().encode, told['text']
    assert ids(context + written) == [*ids(context), *told['tokens']]
    pairs = [(context, ' France slept'), (context, written), ('', 'A dark night'), ('x ', 'y')]
    found = lm.loglikelihood(requests(*pairs), disable_tqdm=True)
    split = [*pairs[:2], ('x', ' y')]
    scored = session.score([{'inputs': c, 'targets': t} for c, t in split], eos=False)
    scored.insert(2, session.score(['A dark night'], eos=False)[0])
    np.testing.assert_allclose([x for x, _ in found], [x['log_prob'] for x in scored], atol=1e-3)
    ids = bundled().encode
    assert (
        ids(context + written) == ids(context) + session.generate([context], length=3)[0]['tokens']
    )
    assert [greedy for _, greedy in found] == [False, True, False, False]


def test_a_context_that_is_too_long_is_cut_from_the_left_behind_bos(causal):
    session, *_ = causal
    [(cut, _)] = lm_of(session, max_length=4).loglikelihood(
        requests(('one two three four five', ' six seven')), disable_tqdm=True
    )
    ids = bundled().encode
    kept = bundled().decode(ids('one two three four five')[-2:])
    assert len(ids(' six seven')) == 2
    expected = session.score([{'inputs': kept, 'targets': ' six seven'}], eos=False)[0]
    assert cut == pytest.approx(expected['log_prob'], abs=1e-3)


def test_a_long_text_s_likelihood_predicts_every_token_once_in_full_windows(causal):
    """The harness's own example: 10 tokens, rows of 4."""
    session, run, params = causal
    text = 'It was a dark and stormy night in Rome'
    ids = bundled().encode(text)[:10]
    text = bundled().decode(ids)
    assert len(ids) == 10 and bundled().encode(text) == ids
    windows = [([0, *ids[:3]], ids[:4]), (ids[3:7], ids[4:8]), (ids[5:9], ids[8:])]
    model, total = step.model_of(run)(params), 0.0
    for given, targets in windows:
        scores = jax.nn.log_softmax(model.logits(model.decode(np.array([given]))[0])[0])
        total += sum(float(scores[i - len(targets), id]) for i, id in enumerate(targets))
    found = lm_of(session, max_length=4).loglikelihood_rolling(requests((text,), ('',)), True)
    assert found == [pytest.approx(total, abs=1e-3), 0]


def test_texts_are_written_by_each_task_s_own_settings(causal):
    session, *_ = causal
    contexts = ['The king', 'It was a dark and stormy', 'Who']
    plain = session.generate(contexts, length=6)
    stop = plain[1]['text'][4:7]
    settings = [{'max_gen_toks': 6}, {'until': [stop], 'max_gen_toks': 6}, {'max_gen_toks': 6}]
    found = lm_of(session).generate_until(requests(*zip(contexts, settings, strict=True)))
    assert [found[0], found[2]] == [plain[0]['text'], plain[2]['text']]
    assert stop not in found[1] and plain[1]['text'].startswith(found[1])
    with pytest.raises(ConfigError, match='settings num_beams are not known'):
        lm_of(session).generate_until(requests(('x', {'num_beams': 4})))
    with pytest.raises(ConfigError, match='max_length=0 must be 4 or more'):
        lm_of(session, max_length=0)
    with pytest.raises(ConfigError, match='max_gen_toks=32 leaves no room'):
        lm_of(session).generate_until(requests(('x', {'max_gen_toks': 32})))


@pytest.mark.all
def test_the_harness_finds_the_accuracy_that_minimal_pairs_find(causal, tmp_path):
    import lm_eval.tasks

    session, run, params = causal
    lines = [json.dumps({'sentence_good': good, 'sentence_bad': bad}) for good, bad in PAIRS]
    (tmp_path / 'pairs.jsonl').write_text('\n'.join(lines) + '\n')
    task = {
        'task': 'pairs_for_a_test',
        'dataset_path': 'json',
        'dataset_kwargs': {'data_files': {'validation': str(tmp_path / 'pairs.jsonl')}},
        'validation_split': 'validation',
        'output_type': 'multiple_choice',
        'doc_to_text': '',
        'doc_to_target': 0,
        'doc_to_choice': '{{[sentence_good, sentence_bad]}}',
        'target_delimiter': '',
        'metric_list': [{'metric': 'acc'}],
    }
    few = lm_eval.tasks.TaskManager(include_defaults=False)  # its thousands take a minute to read
    own = dict(tasks=[task], task_manager=few, bootstrap_iters=0)
    found = lm_eval.simple_evaluate(model=lm_of(session), **own)
    own = MinimalPairs(path=str(tmp_path / 'pairs.jsonl')).open(run, sharding.make_mesh(run.mesh))
    assert found['results']['pairs_for_a_test']['acc,none'] == dict(own(params))['s/pairs/accuracy']
    assert found['config']['model_step'] == '0'


def test_an_encoder_decoder_reads_the_context_and_an_encoder_is_refused(tmp_path_factory):
    lengths = {'inputs': 24, 'targets': 16}
    session, *_ = session_of(tmp_path_factory, 'pairs', seq2seq(), lengths)
    lm = lm_of(session)
    [(found, _)] = lm.loglikelihood(requests(('The king', ' of France')), disable_tqdm=True)
    scored = session.score([{'inputs': 'The king', 'targets': ' of France'}], eos=False)
    assert found == pytest.approx(scored[0]['log_prob'], abs=1e-3)
    with pytest.raises(ConfigError, match='has no rolling likelihood'):
        lm.loglikelihood_rolling(requests(('x',)))
    with pytest.raises(ConfigError, match='needs a context'):
        lm.loglikelihood(requests(('', 'x')), disable_tqdm=True)
    with pytest.raises(ConfigError, match=r'has no decoder; evaluation/minimal_pairs\.py'):
        lm_of(session_of(tmp_path_factory, 'mlm', mlm(), {'targets': 32})[0])
