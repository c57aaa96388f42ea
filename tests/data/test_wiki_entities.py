"""Task wiki_entities: mentions of titles are found and marked on their tokens."""
# SPDX-License-Identifier: Apache-2.0

import itertools

import numpy as np
import pytest
import seqio

from t5x_lite.data import corpora, loader, tfds_builder
from t5x_lite.data.masking import Entities
from t5x_lite.data.tasks import wiki_entities
from t5x_lite.experiment import Stream
from t5x_lite.objectives.mlm import mlm

IMPORTS = ('t5x_lite.data.tasks.wiki_entities',)


@pytest.fixture(scope='module', autouse=True)
def data_dir(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp('wiki')
        patch.setenv('T5X_LITE_DATA_DIR', str(path))
        yield path


def found(title, text):
    data = text.encode()
    return [data[a:b].decode() for a, b in wiki_entities.mentions(title, text)]


def test_mentions_are_whole_words_with_a_first_letter_of_either_case():
    assert found('Alien (film)', 'Alien is a film. Aliens; an alien, the "Alien"') == (
        ['Alien', 'alien', 'Alien']
    )
    assert found('C++', 'Über C++ and c++, not C+') == ['C++', 'c++']
    assert found('Élan', 'The élan of Élan Vital.') == ['élan', 'Élan']
    assert found('Water vapor', 'Water Vapor') == []


def test_a_token_that_holds_part_of_a_mention_is_marked():
    text = 'Über lagoons: a lagoon, Lagoon.'
    tokens = np.array(wiki_entities.VOCABULARY.encode(text))
    marks = wiki_entities.entities('Lagoon', text, tokens)
    parts = [wiki_entities.VOCABULARY.decode(tokens[marks == k].tolist()) for k in (1, 2)]
    assert [part.strip(' .,') for part in parts] == ['lagoon', 'Lagoon']
    assert marks.dtype == np.int32 and set(marks) == {0, 1, 2}


def test_every_article_has_its_text_and_as_many_marks():
    dataset = seqio.get_mixture_or_task('wiki_entities').get_dataset(
        None, 'validation', shuffle=False
    )
    articles = {
        article['text']: article['title']
        for article in corpora.documents(corpora.split_path('validation', corpora.WIKI_TOPICS))
    }
    marked = 0
    for example in dataset.as_numpy_iterator():
        text = wiki_entities.VOCABULARY.decode(example['targets'].tolist())
        title = articles.pop(text)
        assert example['entities'].shape == example['targets'].shape
        assert example['entities'].max(initial=0) == len(found(title, text))
        marked += example['entities'].any()
    assert not articles and marked > 350


def test_both_bundled_corpora_share_a_data_dir(data_dir):
    tfds_builder.prepare()
    assert sorted(p.name for p in data_dir.iterdir()) == ['corpus_en_pd', 'wiki_topics']
    task = seqio.get_mixture_or_task('wiki_entities')
    assert [task.num_input_examples(s) for s in corpora.SPLITS] == [1900, 400, 400]


def test_a_loader_of_entities_goes_on_from_a_snapshot(monkeypatch):
    monkeypatch.setattr(loader, 'SNAPSHOT_EVERY', 3)
    objective = mlm(choose=Entities(), rate=0.5)
    stream = Stream(
        mixture='wiki_entities', objective=objective, lengths={'targets': 64}, batch_size=4
    )
    open_again = lambda: loader.open_stream(stream, 'text', imports=IMPORTS)
    rows = open_again()
    batches = list(itertools.islice(rows, 5))
    state = rows.state()
    batches += itertools.islice(rows, 4)
    rows.close()
    assert state['skip'] == 2 and state['shards']
    rows = open_again()
    rows.restore(state)
    for expected in batches[5:]:
        again = next(rows)
        for name, x in expected.items():
            np.testing.assert_array_equal(again[name], x, err_msg=name)
    rows.close()
