"""Neighbouring sentences of the bundled text as a search, and the benchmark on them."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import importlib.util
import json

import pytest
import trained

from benchmarks import retrieval as benchmark
from t5x_lite import retrieval, sharding
from t5x_lite.errors import ConfigError
from t5x_lite.evaluation.collection import Collection
from t5x_lite.evaluation.search import SearchEval
from t5x_lite.objectives.mlm import mlm

IMPORTS = ('t5x_lite.data.tasks.corpus_en_pd',)
NO_SKLEARN = importlib.util.find_spec('sklearn') is None


@pytest.fixture(scope='module')
def search():
    return retrieval.neighbour_search('corpus_en_pd', 'test', 40, imports=IMPORTS)


def test_a_sentence_finds_the_one_after_it_in_the_held_out_text(search):
    again = retrieval.neighbour_search('corpus_en_pd', 'test', 40, imports=IMPORTS)
    assert search == again and len(search.queries) == len(search.documents) == 40
    assert search.grades['q7'] == {'d7': 1}
    rows = [
        text for i in range(40) for text in (search.queries[f'q{i}'], search.documents[f'd{i}'])
    ]
    document = next(_documents())
    places = [document.find(text.strip()) for text in rows[:6]]
    assert -1 < places[0] and places == sorted(places) and len({*places}) == 6, rows[:6]


def _documents():
    from t5x_lite.data import corpora

    return (d['text'] for d in corpora.documents(corpora.split_path('test')))


@pytest.mark.all
def test_the_benchmark_gives_the_numbers_of_the_evaluator(tmp_path, capsys):
    lengths = {'targets': 16}
    run = trained.experiment(mlm(), lengths, mixture='corpus_en_pd', imports=IMPORTS)
    folder, params = trained.folder(tmp_path / 'run', run)
    output = tmp_path / 'compared'
    options = ['--no-tfidf', '--pairs', '40', '--length', '16', '--output', str(output)]
    rows = benchmark.main([f'a={folder}:mean', f'b={folder}', f'c={folder}:cls', *options])
    assert rows['a'] == rows['b'] != rows['c']  # masked LM compares no vectors: the mean
    assert json.loads((output / 'retrieval.json').read_text()) == rows
    shown = (output / 'retrieval.md').read_text()
    assert capsys.readouterr().out == shown and f'| a | {rows["a"]["recall_at_1"]:.4f} |' in shown
    value = SearchEval(stream='s', folder=str(output / 'collection'), length=16)
    one = dataclasses.replace(run, evals={'search': value})
    got = dict(value.open(one, sharding.make_mesh(run.mesh))(params))
    expected = {f's/collection/{name}': value for name, value in rows['a'].items()}
    assert got == pytest.approx(expected) and 0 < rows['a']['mrr_at_10'] < 1


TEXTS = {'a': 'the dark night', 'b': 'a river', 'c': 'the night river'}
FOUND = Collection({'c': TEXTS['c'], 'q': 'the dark river'}, TEXTS, {'c': {'b': 1}, 'q': {'a': 1}})


@pytest.mark.skipif(NO_SKLEARN, reason='needs scikit-learn')
def test_tfidf_weighs_rare_words_more_and_a_query_does_not_find_itself():
    found = benchmark.judge(benchmark.tfidf()(FOUND), FOUND)
    assert found.found[1].tolist() == [1, 0, 0]
    assert found.found[0].tolist()[:2].count(1) == 1 and found.recall(2) == 1.0


@pytest.mark.skipif(not NO_SKLEARN, reason='scikit-learn is there')
def test_a_missing_scikit_learn_is_said_with_what_to_do():
    with pytest.raises(
        ConfigError, match='No module .* pip install scikit-learn, or leave it out: --no-tfidf'
    ):
        benchmark.main(['--folder', 'none'])


def test_nothing_to_compare_and_runs_without_a_name_are_refused(capsys):
    with pytest.raises(ConfigError, match='nothing to compare: name a run'):
        benchmark.main(['--no-tfidf'])
    with pytest.raises(SystemExit):
        benchmark.parse(['runs/mlm'])
    assert "'runs/mlm' must be NAME=FOLDER or NAME=FOLDER:POOL" in capsys.readouterr().err
