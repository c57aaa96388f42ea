"""Tasks of labelled data: from shipped copies, and from TFDS folders of the real features."""
# SPDX-License-Identifier: Apache-2.0

import json

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
import tfds_folders

from benchmarks import labelled_tasks
from t5x_lite.data import corpora, vocabularies
from t5x_lite.data.labelled_task import labelled_task
from t5x_lite.data.tagged_task import pieces
from t5x_lite.data.tasks import (  # noqa: F401
    cnn_dailymail,
    glue,
    gnome_help,
    squad,
    super_glue,
    wmt,
    xsum,
)
from t5x_lite.errors import ConfigError

VOCABULARY = vocabularies.bundled()
TEXT, INT = tfds.features.Text(), tf.int32


@pytest.fixture
def tfds_data_dir(tmp_path):
    """A folder that `--tfds_data_dir` names for the length of a test."""
    seqio.set_tfds_data_dir_override(str(tmp_path))
    yield tmp_path
    seqio.set_tfds_data_dir_override(None)


def read(name, split='train'):
    task = seqio.get_mixture_or_task(name)
    dataset = task.get_dataset(None, split, shuffle=False, num_epochs=1)
    yield from dataset.as_numpy_iterator()
    if isinstance(task.source, seqio.TfdsDataSource):
        task.source.tfds_dataset.override_data_dir(None)


def text(ids):
    return VOCABULARY.decode(ids.tolist())


@pytest.mark.parametrize('pair, counts', [('en_de', (2154, 173, 241)), ('en_zh', (726, 45, 66))])
def test_translations_are_those_shipped(pair, counts, tmp_path, monkeypatch):
    monkeypatch.setenv('T5X_LITE_DATA_DIR', str(tmp_path))
    task = seqio.get_mixture_or_task(f'gnome_help_{pair}')
    assert tuple(task.num_input_examples(split) for split in corpora.SPLITS) == counts
    folder = corpora.CORPUS_EN_PD.parent / f'gnome_help_{pair}'
    shipped = corpora.documents(corpora.split_path('validation', folder))
    found = [(text(e['inputs']), text(e['targets'])) for e in read(task.name, 'validation')]
    assert sorted(found) == sorted((d['text'], d['translation']) for d in shipped)


GLUE = {
    'cola': {'sentence': TEXT},
    'mrpc': {'sentence1': TEXT, 'sentence2': TEXT},
    'qqp': {'question1': TEXT, 'question2': TEXT},
    'mnli': {'premise': TEXT, 'hypothesis': TEXT},
    'qnli': {'question': TEXT, 'sentence': TEXT},
}


@pytest.mark.parametrize(
    'name',
    ['mrpc', 'mnli', *(pytest.param(n, marks=pytest.mark.all) for n in ('cola', 'qqp', 'qnli'))],
)
def test_glue_has_its_texts_in_order_and_labels(name, tfds_data_dir):
    features = GLUE[name] | {'label': tfds.features.ClassLabel(num_classes=3), 'idx': INT}
    row = {key: f'{key} text' for key in GLUE[name]} | {'label': 1, 'idx': 0}
    held = ('validation_matched', 'validation_mismatched') if name == 'mnli' else ('validation',)
    splits = {split: [row] for split in ('train', *held)}
    tfds_folders.write(tfds_data_dir, 'glue', name, '2.0.0', features, splits)
    (example,) = read(f'glue_{name}', 'validation')
    for ours, theirs in zip(('inputs', 'inputs_2'), glue.TEXTS[name], strict=False):
        assert text(example[ours]) == f'{theirs} text'
    assert example['label'] == 1 and example['label'].dtype == np.int32


def test_similarity_is_a_number(tfds_data_dir):
    features = {'sentence1': TEXT, 'sentence2': TEXT, 'label': tf.float32, 'idx': INT}
    row = {'sentence1': 'a', 'sentence2': 'b', 'label': 2.25, 'idx': 0}
    tfds_folders.write(tfds_data_dir, 'glue', 'stsb', '2.0.0', features, {'train': [row]})
    (example,) = read('glue_stsb')
    assert example['label'] == 2.25


def test_copa_is_a_choice(tfds_data_dir):
    names = ('premise', 'choice1', 'choice2', 'question')
    features = dict.fromkeys(names, TEXT) | {'label': tfds.features.ClassLabel(num_classes=2)}
    row = dict(premise='It rained.', choice1='Wet.', choice2='Dry.', question='effect', label=0)
    splits = {'train': [row, row | dict(question='cause')]}
    tfds_folders.write(tfds_data_dir, 'super_glue', 'copa', '1.0.2', features, splits)
    effect, cause = sorted(read('super_glue_copa'), key=lambda e: text(e['inputs']))
    assert text(cause['inputs']) == 'It rained. What was the cause of this?'
    assert text(effect['inputs']) == 'It rained. What happened as a result?'
    assert [text(cause[f'choice_{i}']) for i in (0, 1)] == ['Wet.', 'Dry.']
    assert cause['label'] == 0


@pytest.mark.all
@pytest.mark.parametrize(
    'name, row, expected',
    [
        ('boolq', dict(question='Q', passage='P'), ('Q', 'P')),
        ('cb', dict(premise='P', hypothesis='H'), ('P', 'H')),
        ('wic', dict(word='W', sentence1='A', sentence2='B'), ('W: A', 'B')),
        ('wsc.fixed', dict(text='T', span1_text='A', span2_text='it'), ('T', 'it = A')),
        ('multirc', dict(question='Q', answer='A', paragraph='P'), ('Q A', 'P')),
    ],
)
def test_super_glue_has_its_texts(name, row, expected, tfds_data_dir):
    features = dict.fromkeys(row, TEXT) | {'label': tfds.features.ClassLabel(num_classes=2)}
    splits = {'train': [row | {'label': 1}]}
    tfds_folders.write(tfds_data_dir, 'super_glue', name, '1.0.2', features, splits)
    (example,) = read(f'super_glue_{name.removesuffix(".fixed")}')
    assert (text(example['inputs']), text(example['inputs_2'])) == expected
    assert example['label'] == 1


ANSWERS = tfds.features.Sequence({'text': TEXT, 'answer_start': INT})
QUESTION = {
    'id': '1',
    'title': 'T',
    'context': 'Die Straße führt nach Köln.',
    'question': 'Wohin?',
    'answers': {'text': ['Köln', 'nach Köln'], 'answer_start': [22, 17]},
}


def test_answers_of_squad_are_tokens_of_the_context(tfds_data_dir):
    features = dict.fromkeys(('id', 'title', 'context', 'question'), TEXT) | {'answers': ANSWERS}
    splits = {'train': [QUESTION], 'validation': [QUESTION]}
    tfds_folders.write(tfds_data_dir, 'squad', 'v1.1', '3.0.0', features, splits)
    (example,) = read('squad')
    spans = example['answers'].reshape(-1, 2)
    found = [text(example['context'][a:b]).strip() for a, b in spans]
    assert found[0].startswith('Köln') and found[1].startswith('nach Köln')
    assert text(example['question']) == 'Wohin?'

    (example,) = read('squad_text', 'validation')
    assert text(example['inputs']) == f'question: Wohin? context: {QUESTION["context"]}'
    assert text(example['targets']) == 'Köln'
    task = seqio.get_mixture_or_task('squad_text')
    right = task.postprocess_fn('Köln', example=example, is_target=True)
    assert right == ['Köln', 'nach Köln']
    scores = [metric([right], ['Köln']) for metric in task.predict_metric_fns]
    assert scores == [{'exact_match': 1.0}, {'answer_f1': 1.0}]


def test_questions_of_squad_2_may_have_no_answer(tfds_data_dir):
    features = dict.fromkeys(('id', 'title', 'context', 'question'), TEXT) | {'answers': ANSWERS}
    none = QUESTION | {'answers': {'text': [], 'answer_start': []}}
    tfds_folders.write(tfds_data_dir, 'squad', 'v2.0', '3.0.0', features, {'train': [none]})
    (example,) = read('squad_2')
    assert example['answers'].shape == (0,)


@pytest.mark.parametrize(
    'task, folder, row, expected',
    [
        (
            'cnn_dailymail',
            ('cnn_dailymail', None, '3.4.0'),
            dict(article='A.', highlights='B\nC'),
            ('summarize: A.', 'B\nC'),
        ),
        ('xsum', ('xsum', None, '1.1.0'), dict(document='A', summary='B'), ('summarize: A', 'B')),
        (
            'wmt16_en_ro',
            ('wmt16_translate', 'ro-en', '1.0.0'),
            dict(en='Yes', ro='Da'),
            ('translate English to Romanian: Yes', 'Da'),
        ),
    ],
)
def test_text_to_text_tasks_read_their_folders(task, folder, row, expected, tfds_data_dir):
    tfds_folders.write(tfds_data_dir, *folder, dict.fromkeys(row, TEXT), {'train': [row]})
    (example,) = read(task)
    assert (text(example['inputs']), text(example['targets'])) == expected


def test_a_class_that_is_not_known_is_named():
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensors(
            {'text': 'a', 'label': 'bird'}
        ),
        splits=['train'],
    )
    labelled_task('animals_for_a_test', source, {'inputs': 'text'}, classes=('cat', 'dog'))
    with pytest.raises(tf.errors.InvalidArgumentError, match='no such class.*bird'):
        list(read('animals_for_a_test'))


def test_examples_in_the_order_of_their_labels_are_mixed():
    """As those of Banking77 are: a thousand in a buffer would be a few of its classes."""
    examples = {
        'text': [f'text {i}' for i in range(6_000)],
        'label': [i // 60 for i in range(6_000)],
    }
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(examples),
        splits=['train'],
    )
    task = labelled_task('ordered_for_a_test', source, {'inputs': 'text'})
    dataset = task.get_dataset(None, 'train', shuffle=True, seed=0, num_epochs=1)
    labels = [int(example['label']) for example in dataset.take(600).as_numpy_iterator()]
    assert len({*labels}) > 95


def test_every_word_has_a_piece_and_the_words_are_the_text():
    words = ['Gott', '&', 'die', 'Welt', '漢字']
    ids, numbers = pieces([w.encode() for w in words], VOCABULARY)
    assert text(ids) == ' '.join(words)
    for i, word in enumerate(words):
        assert text(ids[numbers == i]).strip() == word


def test_labelled_folders_are_read(tmp_path, monkeypatch):
    rows = {
        'banking77/train': [{'text': 'b', 'label': 'y'}, {'text': 'a', 'label': 'x'}],
        'wnut17/valid': [{'tokens': 'I am Bob', 'tags': 'O O B-person'}],
    }
    for name, examples in rows.items():
        path = tmp_path / f'{name}.jsonl'
        path.parent.mkdir()
        path.write_text('\n'.join(json.dumps(example) for example in examples))
    monkeypatch.setenv(labelled_tasks.FOLDER, str(tmp_path))
    assert [int(e['label']) for e in read('banking77')] == [1, 0]
    (example,) = read('wnut17', 'validation')
    assert [labelled_tasks.TAGS[t] for t in example['tags']] == ['O', 'O', 'B-person']
    assert text(example['inputs']) == 'I am Bob'
    monkeypatch.delenv(labelled_tasks.FOLDER)
    with pytest.raises(ConfigError, match='must name the folder that holds banking77/'):
        labelled_tasks.lines('banking77', 'train')
