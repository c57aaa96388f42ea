"""SearchEval: the right document by construction, whatever the chunks, the padding and the mesh."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
import trained

from t5x_lite import sharding, step
from t5x_lite.errors import ConfigError
from t5x_lite.evaluation import collection, search, vectors
from t5x_lite.evaluation.collection import Collection
from t5x_lite.evaluation.ranking import ranked
from t5x_lite.evaluation.search import Best, Lowered, SearchEval
from t5x_lite.inference.session import Session
from t5x_lite.objectives.contrastive import simcse
from t5x_lite.objectives.mlm import mlm
from t5x_lite.objectives.pairs import dual_encoder

WORDS = 'dark night house river table letter garden sister window morning horse music'.split()
DOCUMENTS = {f'd{i}': f'The {WORDS[i]} {WORDS[i + 2]} {WORDS[i + 3]}' for i in range(9)}
QUERIES = {f'q{i}': f'The {WORDS[i + 3]} {WORDS[i + 2]} {WORDS[i]}' for i in (0, 3, 4, 7, 8)}
GRADES = {query: {query.replace('q', 'd'): 1} for query in QUERIES}
FOUND = Collection(QUERIES, DOCUMENTS, GRADES)


@pytest.fixture(scope='module')
def run():
    trained.register('texts_for_a_test', trained.texts('targets'), {'targets': ['A text.']})
    return trained.experiment(mlm(), {'targets': 16})


@pytest.fixture(scope='module')
def params(run):
    return jax.jit(lambda: step.init_state(run).params)()


@pytest.fixture(scope='module')
def bag_of_words(params):
    """Parameters of a model whose layers add nothing: a vector is the mean of its words'."""
    silent = lambda path, x: 0 * x if 'blocks' in jax.tree_util.keystr(path) else x
    return jax.tree_util.tree_map_with_path(silent, params)


@pytest.fixture(scope='module')
def eight(run):
    """Texts on 8 devices, 8 at once."""
    return embedder(run)


def embedder(run, *, devices=8, batch_size=8, **fields):
    mesh = sharding.make_mesh(run.mesh, jax.devices()[:devices])
    return vectors.Embedder(run, mesh, 's', length=16, batch_size=batch_size, **fields)


def scores(run, params, folder, devices=8, **fields) -> dict[str, float]:
    own = dict(stream='s', folder=str(folder), length=16, batch_size=8) | fields
    one = dataclasses.replace(run, evals={'search': SearchEval(**own)})
    mesh = sharding.make_mesh(run.mesh, jax.devices()[:devices])
    return dict(one.evals['search'].open(one, mesh)(params))


def test_texts_of_the_same_words_are_found_in_a_folder(run, bag_of_words, tmp_path):
    FOUND.write(tmp_path / 'words')
    got = scores(run, bag_of_words, tmp_path / 'words', recall=(1, 2), ndcg=(10,))
    perfect = dict.fromkeys(('recall_at_1', 'recall_at_2', 'mrr_at_10', 'ndcg_at_10'), 1.0)
    assert got == {f's/words/{name}': pytest.approx(x) for name, x in perfect.items()}


def test_chunks_give_what_all_documents_at_once_give_on_any_mesh(run, params, eight):
    """9 documents in chunks of 8 on 8 devices, of 4 and all at once on one: all 9 are ranked."""
    whole, four = (embedder(run, devices=1, batch_size=size) for size in (9, 4))
    places = [search.Search(e, FOUND, depth=20)(params) for e in (eight, four, whole)]
    query_QxD = whole.vectors(params, whole.rows(QUERIES.values()))
    key_CxD = whole.vectors(params, whole.rows(DOCUMENTS.values()))
    expected = np.argsort(-query_QxD @ key_CxD.T, axis=1)
    for found in places:
        assert found.shape == (5, 9) and (found >= 0).all()  # padding is never retrieved
        np.testing.assert_array_equal(found, expected)


def test_scores_are_those_of_the_whole_matrix(params, eight):
    graded = {q: own | {f'd{i}': 1 + i % 2 for i in (1, 2, 5)} for q, own in GRADES.items()}
    found = dataclasses.replace(FOUND, grades=graded)
    query_QxD = eight.vectors(params, eight.rows(QUERIES.values()))
    key_CxD = eight.vectors(params, eight.rows(DOCUMENTS.values()))
    relevance_QxD = [[own.get(d, 0) for d in DOCUMENTS] for own in graded.values()]
    whole = ranked(query_QxD @ key_CxD.T, relevance_QxD)
    got = search.judged(search.Search(eight, found, depth=4)(params), found)
    np.testing.assert_array_equal(got.found, whole.found[:, :4])
    for k in (1, 3, 4):
        assert got.recall(k) == whole.recall(k) and got.ndcg(k) == pytest.approx(whole.ndcg(k))
        assert got.reciprocal_rank(k) == whole.reciprocal_rank(k)
    assert 0 < got.ndcg(4) < 1


def test_a_model_to_which_all_texts_are_alike_finds_nothing(bag_of_words, eight):
    alike = jax.tree.map(lambda x: 0 * x + 1, bag_of_words)
    got = search.judged(search.Search(eight, FOUND, depth=8)(alike), FOUND)
    assert got.recall(8) == 0.0  # the relevant one of nine is the last


def test_a_query_does_not_find_itself(bag_of_words, eight):
    texts = {'a': 'The dark night house', 'b': 'The dark night', 'c': 'The music'}
    found = Collection({'a': texts['a']}, texts, {'a': {'b': 1}})
    assert search.Search(eight, found, depth=3)(bag_of_words).tolist() == [[1, 2, -1]]


PAIR = {'inputs': ['Who wrote it?', 'Where?'], 'targets': ['She wrote it.', 'In the garden.']}


@pytest.fixture(scope='module')
def dual():
    trained.register('pairs_for_a_test', trained.texts('inputs', 'targets'), PAIR)
    objective = dual_encoder(separate=True, projection=8)
    lengths = {'inputs': 16, 'targets': 16}
    return trained.experiment(objective, lengths, 'pairs_for_a_test')


def test_a_dual_encoder_s_towers_and_heads_are_those_of_its_training(dual):
    one, params = embedder(dual), jax.jit(lambda: step.init_state(dual).params)()
    stream = dual.streams['s']
    [(name, term)], converter = stream.objective.terms.items(), stream.objective.converter
    cutter = converter.cutter(stream.lengths, one.info)
    for texts in zip(*PAIR.values(), strict=True):
        ids = [np.array(row[:-1], np.int32) for row in one.rows(texts)]
        cutter.add(dict(zip(PAIR, ids, strict=True)))
    batch = converter.batch(cutter.take(2), stream.lengths, one.info, None)
    model = one.model(params)
    outputs = stream.objective.forward(model, batch, None)
    expected = term.loss.embed(model, model.heads[name], outputs, batch)
    for side, texts in enumerate(PAIR.values()):
        found = one.vectors(params, one.rows(texts), side)
        np.testing.assert_allclose(found, list(expected.values())[side], atol=1e-6)


@pytest.mark.all
def test_a_session_s_vectors_are_those_of_the_evaluators(dual, tmp_path):
    path, params = trained.folder(tmp_path / 'dual', dual)
    one, session = embedder(dual), Session(path)
    for side, texts in enumerate(PAIR.values()):
        told = [example['embedding'] for example in session.embed(texts, side=side)]
        found = one.vectors(params, one.rows(texts), side)
        np.testing.assert_allclose(told, found, atol=1e-5)


def test_padding_is_left_out_of_the_best_and_scores_are_lowered():
    query_QxD, key_CxD = np.eye(2, 3, dtype=np.float32), np.eye(4, 3, dtype=np.float32)
    nowhere = search.NOWHERE
    lowered = Lowered(*map(np.array, ([0, 1, nowhere], [0, 1, 0])), np.float32([0.5, np.inf, 9]))
    got = search.scored(query_QxD, key_CxD, np.array([7, 3, 5, -1]), lowered)
    none = -np.inf
    np.testing.assert_array_equal(got, [[0.5, 0, 0, none], [0, none, 0, none]])
    start = Best(np.full((2, 3), none, np.float32), np.full((2, 3), -1))
    best = search.merged(start, got, np.array([7, 3, 5, -1]))
    assert best.places_QxK.tolist() == [[7, 3, 5], [7, 5, -1]]
    best = search.merged(best, np.float32([[0.2, 1.0], [none, 0.0]]), np.array([1, 2]))
    assert best.places_QxK.tolist() == [[2, 7, 1], [7, 5, 2]]
    np.testing.assert_allclose(best.scores_QxK, [[1.0, 0.5, 0.2], [0, 0, 0]])


# -- files ----------------------------------------------------------------------------------------


def folder(path, corpus, queries, grades):
    (path / 'qrels').mkdir(parents=True)
    for name, examples in (('corpus', corpus), ('queries', queries)):
        text = '\n'.join(e if isinstance(e, str) else json.dumps(e) for e in examples)
        (path / f'{name}.jsonl').write_text(text, encoding='utf-8')
    (path / 'qrels/test.tsv').write_text('query-id\tcorpus-id\tscore\n' + grades)
    return path


def test_a_folder_in_beir_s_layout_is_read(tmp_path):
    corpus = [
        {'_id': '1', 'title': 'A title', 'text': 'and text'},
        {'_id': 2, 'text': 'text alone', 'metadata': {}},
        {'_id': '3', 'title': '', 'text': ''},
    ]
    queries = [{'_id': 'a', 'text': 'Who?'}, {'_id': 'of another split', 'text': 'What?'}]
    found = collection.read(folder(tmp_path / 'x', corpus, queries, 'a\t1\t2\na\t3\t0\n\n'))
    assert found.documents == {'1': 'A title and text', '2': 'text alone', '3': ''}
    assert found.queries == {'a': 'Who?'} and found.grades == {'a': {'1': 2, '3': 0}}


def test_what_is_written_is_read_again(tmp_path):
    FOUND.write(tmp_path, 'dev')
    assert collection.read(tmp_path, 'dev') == FOUND


def test_a_smaller_search_keeps_what_is_relevant():
    found = FOUND.limited(2, 3)
    assert list(found.queries) == ['q0', 'q3'] and list(found.documents) == ['d0', 'd1', 'd3']
    assert found.grades == {'q0': {'d0': 1}, 'q3': {'d3': 1}}
    assert FOUND.limited(None, None) == FOUND


def test_all_that_is_wrong_with_a_folder_is_in_one_message(tmp_path):
    corpus = [
        {'_id': '1', 'text': 'x'},
        {'_id': '1', 'text': 'y'},
        '{"_id": "2"',
        {'_id': '4'},
        '7',
    ]
    queries = [{'text': 'no id'}, {'_id': 'a', 'text': ' '}, {'_id': 'b', 'text': 'x'}]
    grades = 'b\t1\t1\nb\t1\t0\nz\t1\t1\nb\tz\t1\nb\t1\nb\t1\t0.5\n'
    with pytest.raises(ConfigError) as raised:
        collection.read(folder(tmp_path / 'x', corpus, queries, grades))
    message = str(raised.value)
    for part in (
        "corpus.jsonl line 2: _id='1' is there already",
        'corpus.jsonl line 3: is no JSON',
        'corpus.jsonl line 4: text=None must be text',
        'corpus.jsonl line 5: must be a JSON object, not 7',
        'queries.jsonl line 1: _id=None must be text',
        "queries.jsonl line 2: text=' ' must be text",
        "test.tsv line 3: judges document '1' for query 'b' a second time",
        "test.tsv line 4: query 'z' is not in queries.jsonl",
        "test.tsv line 5: document 'z' is not in corpus.jsonl",
        "test.tsv line 6: must be a query, a document and an integer, not 'b\\t1'",
        'and 1 more',
    ):
        assert part in message, message


def test_files_that_are_not_there_are_named_when_the_run_begins(run, tmp_path):
    with pytest.raises(ConfigError) as raised:
        scores(run, None, tmp_path / 'none')
    assert "SearchEval: folder='" in str(raised.value)
    for name in ('corpus.jsonl', 'queries.jsonl', 'qrels/test.tsv'):
        assert f'none/{name}: No such file or directory' in str(raised.value)


@pytest.mark.parametrize(
    'fields, words',
    [
        (dict(stream='x'), "stream='x' is no stream; known: s"),
        (dict(recall=(0,)), r'recall=\(0,\) must be integers of 1 or more'),
        (dict(recall=(), ndcg=(), reciprocal_rank=()), 'recall, .* are all empty; try'),
        (dict(documents=0), 'documents=0 must be an integer of 1 or more'),
        (dict(batch_size=0), 'batch_size=0 must be an integer of 1 or more'),
    ],
)
def test_a_value_that_does_not_fit_is_refused_before_the_run(fields, words):
    own = dict(stream='s', folder='none') | fields
    with pytest.raises(ConfigError, match=f'SearchEval: {words}'):
        trained.experiment(simcse(), {'targets': 16}, evals={'x': SearchEval(**own)})


def test_two_searches_whose_numbers_have_one_name_are_refused():
    two = {name: SearchEval(stream='s', folder=f'{name}/scifact') for name in 'ab'}
    words = re.escape('two of evals write their numbers as s/scifact/..; give one a name')
    with pytest.raises(ConfigError, match=words):
        trained.experiment(simcse(), {'targets': 16}, evals=two)
    two['b'] = dataclasses.replace(two['b'], name='other')
    trained.experiment(simcse(), {'targets': 16}, evals=two)
