"""SimilarityEval: correlations of cosines with gold scores, from files of two kinds."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json

import jax
import numpy as np
import pytest
import scipy.stats
import trained

from t5x_lite import sharding, step
from t5x_lite.errors import ConfigError
from t5x_lite.evaluation import similarity, vectors
from t5x_lite.evaluation.similarity import SimilarityEval
from t5x_lite.objectives.mlm import mlm

PAIRS = [  # the fewer words in common, the lower the score; two of one score
    ('The dark night house', 'The night dark house', 5),
    ('The dark night house', 'The dark night river', 3.5),
    ('The dark night house', 'The dark river letter', 1.5),
    ('The dark night house', 'The music table river', 0),
    ('The garden sister', 'The sister garden', 5),
]
TABLE = 'id\tsentence1\tsentence2\tscore\n' + '\n'.join(
    f'{i}\t{a}\t{b}\t{score}' for i, (a, b, score) in enumerate(PAIRS)
)


@pytest.fixture(scope='module')
def run():
    trained.register('texts_for_a_test', trained.texts('targets'), {'targets': ['A text.']})
    return trained.experiment(mlm(), {'targets': 16})


def scores(run, params, file, **fields) -> dict[str, float]:
    value = SimilarityEval(stream='s', file=str(file), length=16, batch_size=8, **fields)
    one = dataclasses.replace(run, evals={'sts': value})
    return dict(value.open(one, sharding.make_mesh(run.mesh))(params))


def test_correlations_are_scipy_s_and_those_of_words_in_common_rank_all(run, tmp_path):
    """Of a model whose layers add nothing a vector is the mean of its words' vectors."""
    (tmp_path / 'words.tsv').write_text(TABLE)
    params = jax.jit(lambda: step.init_state(run).params)()
    silent = lambda path, x: 0 * x if 'blocks' in jax.tree_util.keystr(path) else x
    params = jax.tree_util.tree_map_with_path(silent, params)
    got = scores(run, params, tmp_path / 'words.tsv')
    one = vectors.Embedder(run, sharding.make_mesh(run.mesh), 's', length=16, batch_size=8)
    first, second, gold = zip(*PAIRS, strict=True)
    sides = [one.vectors(params, one.rows(texts)).astype(np.float64) for texts in (first, second)]
    cosine_N = np.einsum('ND,ND->N', *sides)
    expected = {
        's/words/spearman': scipy.stats.spearmanr(cosine_N, gold).statistic,
        's/words/pearson': scipy.stats.pearsonr(cosine_N, gold).statistic,
    }
    assert got == pytest.approx(expected, abs=1e-6)
    assert got['s/words/spearman'] > 0.97  # the tie of the gold scores is none of the cosines


def test_both_kinds_of_files_are_read(tmp_path):
    (tmp_path / 'a.tsv').write_text(TABLE)
    names = ('sentence1', 'sentence2', 'score')
    examples = (json.dumps(dict(zip(names, pair, strict=True))) for pair in PAIRS)
    (tmp_path / 'a.jsonl').write_text('\n'.join(examples))
    table, objects = (similarity.read(tmp_path / name) for name in ('a.tsv', 'a.jsonl'))
    assert table[:2] == objects[:2]
    assert table.score_N.tolist() == objects.score_N.tolist() == [5, 3.5, 1.5, 0, 5]
    assert similarity.read(tmp_path / 'a.tsv', 2).first == ['The dark night house'] * 2


def test_quotation_marks_are_text(tmp_path):
    (tmp_path / 'a.tsv').write_text('sentence1\tsentence2\tscore\n"A\tB" he\t1\nC\tD\t2\n')
    assert similarity.read(tmp_path / 'a.tsv').second == ['B" he', 'D']


def test_all_that_is_wrong_with_a_file_is_in_one_message(tmp_path):
    file = tmp_path / 'a.tsv'
    file.write_text('sentence1\tsentence2\tscore\nA\tB\tx\nA\tB\n\tB\t1\nA\tB\tnan\nA\tB\t1\n')
    with pytest.raises(ConfigError) as raised:
        similarity.read(file)
    for part in (
        "a.tsv line 2: score='x' must be a number",
        'a.tsv line 3: has 2 columns, not 3',
        "a.tsv line 4: sentence1='' must be text",
        "a.tsv line 5: score='nan' must be a number",
        'a.tsv: has 1 pairs; a correlation needs 2 or more',
    ):
        assert part in str(raised.value)
    file.write_text('sentence1\tgold\n')
    with pytest.raises(ConfigError, match='line 1: names no column sentence2, score; it has'):
        similarity.read(file)


def test_a_file_that_is_not_there_is_named_when_the_run_begins(run, tmp_path):
    with pytest.raises(ConfigError, match='none.tsv: No such file or directory'):
        scores(run, None, tmp_path / 'none.tsv')
