"""MTEB gets the session's own vectors, and scores them as it scores any encoder."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
import trained

from t5x_lite.inference.session import Session
from t5x_lite.objectives.contrastive import simcse
from t5x_lite.objectives.pairs import dual_encoder

mteb = pytest.importorskip('mteb', reason="needs pip install 't5x_lite[mteb]'")

TEXTS = ['A dark and stormy night.', 'Hello', 'The king of France, who was old,']


def encoder_of(tmp_path_factory, name, objective, lengths):
    from t5x_lite.interop.mteb_adapter import SessionEncoder

    features = objective.converter.features
    trained.register(f'{name}_for_mteb', trained.texts(*features), {n: ['x'] for n in features})
    run = trained.experiment(objective, lengths, f'{name}_for_mteb')
    folder, _ = trained.folder(tmp_path_factory.mktemp(name), run)
    session = Session(folder)
    return session, SessionEncoder(session)


@pytest.fixture(scope='module')
def simple(tmp_path_factory):
    return encoder_of(tmp_path_factory, 'simcse', simcse(), {'targets': 32})


def encoded(encoder, batches, prompt_type=None):
    return encoder.encode(
        batches, task_metadata=None, hf_split='test', hf_subset='default', prompt_type=prompt_type
    )


def test_the_vectors_are_those_of_embed_in_the_order_of_the_texts(simple):
    session, encoder = simple
    long = ' '.join(TEXTS * 6)
    found = encoded(encoder, [{'text': [long, *TEXTS[:2]]}, {'text': TEXTS[2:]}])
    expected = [one['embedding'] for one in session.embed([long, *TEXTS], max_length=32)]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_an_empty_text_has_the_vector_of_its_marks_alone(simple):
    _, encoder = simple
    empty, alone = encoded(encoder, [{'text': ['', 'Hello']}])
    np.testing.assert_allclose(np.linalg.norm(empty), 1, rtol=1e-5)
    np.testing.assert_array_equal(encoded(encoder, [{'text': ['']}])[0], empty)
    assert np.abs(empty - alone).max() > 1e-3


@pytest.mark.all
def test_mteb_s_own_evaluation_scores_the_session_s_vectors(simple):
    from mteb.mocks.mock_tasks.retrieval import MockRetrievalTask
    from mteb.mocks.mock_tasks.sts import MockSTSTask
    from mteb.models.models_protocols import EncoderProtocol

    session, encoder = simple
    assert isinstance(encoder, EncoderProtocol)
    task = MockSTSTask()
    result = mteb.evaluate(encoder, [task, MockRetrievalTask()], cache=None)
    assert result.model_name.startswith('t5x_lite/') and result.model_revision == 'step 0'
    task.load_data()  # which the evaluation has dropped again
    rows = task.dataset['test']
    sides = [np.array([x['embedding'] for x in session.embed(rows[n])]) for n in task.column_names]
    cosines = (sides[0] * sides[1]).sum(axis=1)
    order = 1.0 if (cosines[0] < cosines[1]) == (rows['score'][0] < rows['score'][1]) else -1.0
    scores = [one.scores['test'][0] for one in result.task_results]
    assert scores[0]['cosine_spearman'] == pytest.approx(order)
    assert 0 <= scores[1]['ndcg_at_10'] <= 1


def test_queries_and_documents_go_through_their_own_side_of_a_dual_encoder(tmp_path_factory):
    from mteb.types import PromptType

    lengths = {'inputs': 16, 'targets': 16}
    session, encoder = encoder_of(tmp_path_factory, 'dual', dual_encoder(separate=True), lengths)
    for side, kind in enumerate((PromptType.query, PromptType.document)):
        found = encoded(encoder, [{'text': TEXTS}], kind)
        expected = [one['embedding'] for one in session.embed(TEXTS, side=side)]
        np.testing.assert_allclose(found, expected, atol=2e-6)
