"""Looking at data: steps of a task, rows of a batch by place, and both as text and as a page."""
# SPDX-License-Identifier: Apache-2.0

import functools
import html.parser

import fixtures
import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite import paint_html
from t5x_lite.data import cells, loader, show, vocabularies
from t5x_lite.data.cells import Cell
from t5x_lite.errors import ConfigError
from t5x_lite.objectives.mlm import mlm
from t5x_lite.objectives.packed import packed
from t5x_lite.objectives.prefix_lm import prefix_lm
from t5x_lite.paint_text import Painter

DOCUMENTS = ('', 'It was <b>dark</b>.', 'Two\x1b[31m lines\nand 漢字.', 'The end.')
BUNDLED = vocabularies.bundled()


def read(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensor_slices({'text': list(DOCUMENTS), 'n': [0, 1, 2, 3]})


def twice(dataset):
    return dataset.flat_map(lambda x: tf.data.Dataset.from_tensors(x).repeat(2))


@pytest.fixture(scope='module', autouse=True)
def tasks():
    seqio.TaskRegistry.add(
        'told',
        seqio.FunctionDataSource(read, splits=('train', 'validation')),
        preprocessors=[
            functools.partial(seqio.preprocessors.rekey, key_map={'targets': 'text'}),
            lambda dataset: dataset.filter(lambda x: x['targets'] != ''),
            seqio.CacheDatasetPlaceholder(),
            functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False),
            twice,
        ],
        output_features={'targets': seqio.Feature(BUNDLED, add_eos=False)},
        shuffle_buffer_size=2,
    )
    seqio.MixtureRegistry.add('told_twice', [('told', 1)])
    yield
    seqio.MixtureRegistry.remove('told_twice')
    seqio.TaskRegistry.remove('told')


@pytest.fixture(scope='module')
def view():
    [found] = show.task_views('told', 'train', seed=0, count=2)
    return found


def test_a_document_is_shown_before_and_after_each_preprocessor(view):
    first, _ = view.documents
    assert [step.name for step in first][:2] == ['source', "rekey(key_map={'targets': 'text'})"]
    assert first[2].name.startswith('lambda (test_show.py:')
    assert [step.name for step in first][3:] == ['tokenize(copy_pretokenized=False)', 'twice']
    changes = [{value.name: value.change for value in step.values} for step in first]
    assert changes == [
        {'n': '+', 'text': '+'},
        {'targets': '+', 'n': '-', 'text': '-'},
        {'targets': '='},
        {'targets': '~'},
        {'targets': '='},
    ]
    assert first[1].values[0].text == DOCUMENTS[1]
    assert [step.made for step in first] == [1, 1, 1, 1, 2]


def test_tokens_of_a_step_are_pieces_with_their_ids(view):
    tokens = view.documents[0][3].values[0].tokens
    ids = BUNDLED.encode(DOCUMENTS[1])
    assert [column.cells[0].id for column in tokens.columns] == ids
    assert [column.cells[1].text for column in tokens.columns] == [str(i) for i in ids]
    assert view.documents[0][3].values[0].text == DOCUMENTS[1]


def test_a_document_that_a_step_leaves_out_is_counted_and_the_next_is_shown(view):
    [(name, count)] = view.left_out.items()
    assert name.startswith('lambda (test_show.py:') and count == 1
    assert [steps[0].values[0].text for steps in view.documents] == list(DOCUMENTS[1:3])


def test_a_mixture_is_shown_by_its_tasks():
    assert [v.name for v in show.task_views('told_twice', 'train', seed=0, count=1)] == ['told']


def test_a_split_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="no split 'test'; it has train, validation"):
        show.task_views('told', 'test', seed=0, count=1)


@pytest.mark.parametrize('split', ['train', 'validation'])
def test_rows_are_those_that_training_or_evaluation_takes_first(split):
    experiment = fixtures.experiment('mlm', model=dict(vocab=8192), seed=3)
    stream = experiment.streams['mlm']
    object.__setattr__(stream, 'mixture', 'told')
    how = dict(seed=3, split=split, training=split == 'train')
    batches = loader.open_stream(stream, 'mlm', **how)
    expected = next(batches)
    batches.close()
    rows = show.stream_view(experiment, 'mlm', split, 3).rows
    assert len(rows) == 3
    for row, ids, segments in zip(
        rows, expected['encoder_input_tokens'], expected['encoder_segment_ids'], strict=False
    ):
        columns = row.groups[0].columns
        assert [c.cells[0].id for c in columns] == ids[segments > 0].tolist()
        assert row.groups[0].padding == np.sum(segments == 0)


VOCABULARY = fixtures.vocabulary()  # 3 [CLS], 4 [SEP], 5 [MASK], 6 '.', 7.. words; 63.. sentinels


def arrays(head: str, inputs, **others):
    """A batch of one row."""
    batch = {f'{head}_input_tokens': inputs, **{f'{head}_{n}': x for n, x in others.items()}}
    return {name: np.array([x]) for name, x in batch.items()}


MASKED = arrays(
    'encoder',
    [3, 5, 8, 9, 4, 0],
    target_tokens=[3, 7, 10, 9, 4, 0],
    loss_weights=[0.0, 1.0, 1.0, 1.0, 0.0, 0.0],
    segment_ids=[1, 1, 1, 1, 1, 0],
    positions=[0, 1, 2, 3, 4, 0],
)


def test_masked_replaced_and_kept_tokens_are_told_apart():
    types = {'token_type_ids': np.array([[0, 0, 1, 1, 1, 0]]), 'nsp_labels': np.array([1])}
    [row] = cells.rows(MASKED | types, VOCABULARY, 3)
    [group] = row.groups
    assert group.lines == (
        'encoder_input_tokens',
        'encoder_target_tokens',
        'what was done',
        'encoder_loss_weights',
        'token_type_ids',
    )
    assert [c.cells[2].text for c in group.columns] == ['', 'masked', 'replaced', 'kept', '']
    assert [c.cells[0].role for c in group.columns] == ['cls', 'mask', 'replaced', 'text', 'sep']
    assert [c.scored for c in group.columns] == [False, True, True, True, False]
    assert [c.cells[4].text for c in group.columns] == ['0', '0', '1', '1', '1']
    assert [c.cells[3].role for c in group.columns] == ['off', *['weight'] * 3, 'off']
    assert [c.cells[4].role for c in group.columns] == ['off', 'off', *['type'] * 3]
    assert group.columns[1].cells[1] == Cell('▁W7', 'text', 7)
    assert group.padding == 1
    assert group.summary == {
        'encoder_loss_weights': '0, 1 x 3, 0 x 2',
        'encoder_segment_ids': '1 x 5, 0',
        'encoder_positions': '0..4, 0',
        'token_type_ids': '0 x 2, 1 x 3, 0',
    }
    assert row.others == {'nsp_labels': '1'}


def test_a_decoder_shows_segments_and_prefix_and_compares_nothing():
    batch = arrays(
        'decoder',
        [0, 7, 8, 0, 9, 63],
        target_tokens=[7, 8, 1, 9, 63, 1],
        loss_weights=[0.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        causal_attention=[1, 1, 0, 1, 0, 0],
        segment_ids=[1, 1, 1, 2, 2, 2],
        positions=[0, 1, 2, 0, 1, 2],
    )
    [group] = cells.rows(batch, VOCABULARY, 1)[0].groups
    assert 'what was done' not in group.lines and 'decoder_positions' not in group.lines
    assert [c.begins for c in group.columns] == [False, False, False, True, False, False]
    assert [c.prefix for c in group.columns] == [True, True, False, True, False, False]
    assert [c.cells[4].role for c in group.columns] == ['segment'] * 3 + ['next'] * 3
    roles = [c.cells[0].role for c in group.columns]
    assert roles == ['pad', 'text', 'text', 'pad', 'text', 'sentinel']


def test_arrays_are_grouped_by_what_stands_before_input_tokens():
    shapes = {
        'encoder_input_tokens': (2, 8),
        'positive_input_tokens': (2, 6),
        'positive_encoder_input_tokens': (2, 5),
        'positive_encoder_segment_ids': (2, 5),
        'positive_segment_ids': (2, 6),
        'encoder_order': (2, 8),
        'encoder_reach': (2, 8, 8),
        'encoder_labels': (2,),
        'token_type_ids': (2, 8),
    }
    assert cells.groups(shapes) == {
        'encoder': ['encoder_input_tokens', 'encoder_order', 'token_type_ids'],
        'positive': ['positive_input_tokens', 'positive_segment_ids'],
        'positive_encoder': ['positive_encoder_input_tokens', 'positive_encoder_segment_ids'],
    }


def test_an_id_that_the_vocabulary_does_not_have_is_shown_as_such():
    [group] = cells.rows(arrays('encoder', [7, 64]), VOCABULARY, 1)[0].groups
    assert group.columns[1].cells[0] == Cell('<id 64>', 'outside', 64)


@pytest.mark.parametrize(
    'values, words',
    [
        ([1, 1, 1, 0], '1 x 3, 0'),
        ([0, 1, 2, 3, 0, 1, 2], '0..3, 0..2'),
        ([0.5, 0.5], '0.5 x 2'),
        ([], 'empty'),
        (3, '3'),
        ([5, 1, 7, 2, 9, 4, 0], '6 of 7 not 0, from 0 to 9'),
        ([[True, False], [True, True]], '2 x 2, 3 of 4 not 0, from 0 to 1'),
    ],
)
def test_an_array_in_words(values, words):
    assert cells.in_words(np.array(values)) == words


def test_what_is_not_printable_is_written_out():
    assert cells.visible('a\nb\x1b[31m\u202e\t▁é漢') == 'a↵b\\x1b[31m\\u202e⇥▁é漢'


def stream_view(batch):
    return show.StreamView('one', {'mixture': 'none'}, cells.rows(batch, VOCABULARY, 1))


def test_text_stands_under_its_token_and_has_no_colour_unless_asked():
    lines = list(Painter(colour=False, width=60).stream(stream_view(MASKED)))
    first = next(i for i, line in enumerate(lines) if 'input_tokens' in line)
    assert lines[first : first + 4] == [
        '    input_tokens    [CLS] [MASK] ▁W8      ▁W9  [SEP]',
        '    target_tokens   [CLS] ▁W7*   ▁W10*    ▁W9* [SEP]',
        '    what was done         masked replaced kept',
        '    loss_weights    0     1      1        1    0',
    ]
    coloured = list(Painter(colour=True, width=60).stream(stream_view(MASKED)))
    assert '\x1b[1;35m[MASK]\x1b[0m' in '\n'.join(coloured)


def test_a_drawing_keeps_to_its_width_and_steers_no_terminal(view):
    lines = list(Painter(colour=False, width=70).task(view))
    assert '\x1b' not in ''.join(lines)
    assert max(map(len, lines)) <= 70
    assert any('made 2 examples' in line for line in lines)


def test_long_rows_are_cut_in_the_terminal_and_it_is_said():
    lines = list(Painter(colour=False, places=2).stream(stream_view(MASKED)))
    assert '    and 3 more places; --tokens=5 draws them' in lines
    assert '    then 1 of padding' in lines


class Page(html.parser.HTMLParser):
    """Tags that are open, those seen, attributes, and the text."""

    VOID = ('meta', 'br')

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.attributes, self.text = [], set(), [], ''
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open.pop() != tag:  # cells of tables may be left open
            pass

    def handle_data(self, data):
        self.text += data


def test_the_page_parses_stands_alone_and_escapes_what_it_shows(view):
    text = paint_html.views_page('<title> & "more"', [view], [stream_view(MASKED)])
    page = Page(text)
    assert page.open == []
    assert not page.seen & {'script', 'link', 'img', 'iframe'}
    assert not {name for name, _ in page.attributes} & {'src', 'href', 'onclick'}
    assert 'http' not in text.replace('http-equiv', '') and 'url(' not in text
    assert "default-src 'none'" in text and 'prefers-color-scheme: dark' in text
    assert DOCUMENTS[1] in page.text and '<b>dark' not in text
    assert '\x1b' not in text
    hints = [value for name, value in page.attributes if name == 'title']
    assert any(
        hint.startswith('place 1\nencoder_input_tokens: [MASK] (id 5, mask)') for hint in hints
    )


OBJECTIVES = fixtures.OBJECTIVES | {
    'prefix_lm': (prefix_lm(), {'targets': 16}),
    'packed': (packed(objective=mlm(), buffer=8), {'targets': 80}),
}


@pytest.mark.parametrize('name', OBJECTIVES)
def test_every_array_of_every_objective_is_drawn(name):
    objective, lengths = OBJECTIVES[name]
    how = dict(rows=4, seed=(0,))
    documents = fixtures.documents()
    batch = next(loader.ShardBatches(documents, objective.converter, lengths, VOCABULARY, **how))
    found = stream_view(batch)
    for row in found.rows:
        shown = set(row.others)
        for group in row.groups:
            shown |= {*group.lines, *group.summary}
            width = batch[f'{group.name}_input_tokens'].shape[1]
            assert len(group.columns) + group.padding == width
        assert shown - {'what was done'} == set(batch)
    drawn = '\n'.join(Painter(colour=False).stream(found))
    page = Page(paint_html.views_page('x', [], [found]))
    assert page.open == []
    for group in found.rows[0].groups:
        for column in group.columns:
            assert column.cells[0].text in drawn and column.cells[0].text in page.text
