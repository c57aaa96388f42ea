"""GLUE and SuperGLUE as text to text: the texts that T5 was trained on, and their scores."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
import tfds_folders
from test_labelled_tasks import read, text, tfds_data_dir  # noqa: F401

from t5x_lite.data.tasks import glue_text, super_glue_text
from t5x_lite.data.tasks.wiki_topics_labels import TOPICS

TEXT, INT, CLASS = tfds.features.Text(), tf.int32, tfds.features.ClassLabel(num_classes=3)


def examples_of(name, split='train'):
    """In the order of their texts: a folder has an order of its own."""
    return sorted(read(name, split), key=lambda e: (text(e['inputs']), text(e['targets'])))


def pairs(name, split='train'):
    return [(text(e['inputs']), text(e['targets'])) for e in examples_of(name, split)]


def scores(name, written, split='train'):
    """The task's own metrics of what a model would have written for each example."""
    task, examples = seqio.get_mixture_or_task(name), examples_of(name, split)
    target = lambda e: e['targets_pretokenized'].decode()
    right = [task.postprocess_fn(target(e), example=e, is_target=True) for e in examples]
    found = [
        task.postprocess_fn(w, example=e, is_target=False)
        for w, e in zip(written, examples, strict=True)
    ]
    metrics = [metric(right, found) for metric in task.predict_metric_fns]
    return {name: value for metric in metrics for name, value in metric.items()}


def folder(data_dir, benchmark, name, features, rows, version):
    tfds_folders.write(data_dir, benchmark, name, version, features, {'train': rows})


def test_glue_is_written_as_t5_read_it(tfds_data_dir):  # noqa: F811
    features = {'question1': TEXT, 'question2': TEXT, 'label': CLASS, 'idx': INT}
    rows = [dict(question1='Why?', question2='Who?', label=i, idx=i) for i in (1, 0)]
    folder(tfds_data_dir, 'glue', 'qqp', features, rows, '2.0.0')
    asked = 'qqp question1: Why? question2: Who?'
    assert pairs('glue_qqp_text') == [(asked, 'duplicate'), (asked, 'not_duplicate')]
    assert scores('glue_qqp_text', ['duplicate', 'nonsense']) == {'f1_binary': 1.0, 'accuracy': 0.5}


def test_similarity_is_written_in_steps_of_a_fifth(tfds_data_dir):  # noqa: F811
    features = {'sentence1': TEXT, 'sentence2': TEXT, 'label': tf.float32, 'idx': INT}
    rows = [dict(sentence1='a', sentence2='b', label=x, idx=0) for x in (2.25, 5.0, 0.11)]
    folder(tfds_data_dir, 'glue', 'stsb', features, rows, '2.0.0')
    assert [target for _, target in pairs('glue_stsb_text')] == ['0.2', '2.2', '5.0']
    assert pairs('glue_stsb_text')[0][0] == 'stsb sentence1: a sentence2: b'
    assert scores('glue_stsb_text', ['no', '2', '5.0'])['spearman'] == pytest.approx(1.0)


def test_copa_names_its_choice(tfds_data_dir):  # noqa: F811
    names = ('premise', 'choice1', 'choice2', 'question')
    row = dict(premise='It rained.', choice1='Wet.', choice2='Dry.', question='effect', label=1)
    features = dict.fromkeys(names, TEXT) | {'label': CLASS}
    folder(tfds_data_dir, 'super_glue', 'copa', features, [row], '1.0.2')
    asked = 'copa choice1: Wet. choice2: Dry. premise: It rained. question: effect'
    assert pairs('super_glue_copa_text') == [(asked, 'choice2')]


PLACE = {'paragraph': INT, 'question': INT, 'answer': INT}


def test_multirc_is_scored_by_answers_and_by_questions(tfds_data_dir):  # noqa: F811
    features = dict.fromkeys(('question', 'answer', 'paragraph'), TEXT)
    features |= {'label': CLASS, 'idx': PLACE}
    rows = [
        dict(question=f'Q{q}', answer=f'{a}', paragraph='<b>A</b><br>B', label=label)
        | {'idx': dict(paragraph=0, question=q, answer=a)}
        for q, a, label in ((0, 0, 1), (0, 1, 0), (1, 0, 1), (1, 1, 1))
    ]
    folder(tfds_data_dir, 'super_glue', 'multirc', features, rows, '1.0.2')
    name = 'super_glue_multirc_text'
    assert pairs(name)[0] == ('multirc question: Q0 answer: 0 paragraph: A B', 'True')
    found = scores(name, ['True', 'False', 'True', 'False'])
    assert found == {'f1_of_answers': 0.8, 'questions_right': 0.5}


def test_record_counts_a_query_once(tfds_data_dir):  # noqa: F811
    texts = tfds.features.Sequence(TEXT)
    features = {'passage': TEXT, 'query': TEXT, 'entities': texts, 'answers': texts}
    features |= {'idx': {'passage': INT, 'query': INT}}
    row = dict(passage='One.\n@highlight\nTwo\n@highlight\nThree', query='A @placeholder is')
    row |= dict(entities=['penguin', 'pigeon'], answers=['penguin', 'pigeon'])
    other = row | dict(answers=['pigeon'], idx=dict(passage=0, query=1))
    rows = [row | dict(idx=dict(passage=0, query=0)), other]
    folder(tfds_data_dir, 'super_glue', 'record', features, rows, '1.0.2')
    name = 'super_glue_record_text'
    asked = 'record query: A @placeholder is entities: penguin, pigeon passage: One. Two. Three'
    assert pairs(name) == [(asked, 'penguin'), (asked, 'pigeon'), (asked, 'pigeon')]
    assert scores(name, ['pigeon', 'pigeon', 'no'])['exact_match'] == 0.5


def test_the_pronoun_is_marked_and_a_noun_is_judged(tfds_data_dir):  # noqa: F811
    features = {'text': TEXT, 'span1_text': TEXT, 'span2_text': TEXT, 'span2_index': INT}
    features |= {'span1_index': INT, 'label': CLASS, 'idx': INT}
    row = dict(text='Bob asked Tom if he, or she, can', span1_index=0, span2_text='he', idx=0)
    rows = [
        row | dict(span1_text='Bob', span2_index=4, label=1),
        row | dict(span1_text='The old Tom', span2_index=3, label=0),
    ]
    splits = {'train': rows, 'validation': rows}
    tfds_folders.write(tfds_data_dir, 'super_glue', 'wsc.fixed', '1.0.2', features, splits)
    asked = 'wsc: Bob asked Tom if *he*, or she, can'
    assert pairs('super_glue_wsc_text') == [(asked, 'Bob')]
    name = 'super_glue_wsc_judged_text'
    assert pairs(name, 'validation') == [(asked, 'Bob'), (asked, 'The old Tom')]
    assert scores(name, ['bob', 'Bob'], 'validation') == {'accuracy': 1.0}
    assert scores(name, ["Bob's", 'Tom'], 'validation') == {'accuracy': 0.0}


def test_what_is_no_class_is_a_miss():
    right = np.array([0, 1, 2, 2])
    assert super_glue_text.f1_of_classes([0, 1, 2, 2], right) == 1.0
    assert super_glue_text.f1_of_classes([0, 1, 2, -1], right) == pytest.approx((2 + 2 / 3) / 3)


def test_mixtures_have_all_tasks_of_their_benchmark():
    for name, rates in (('glue', glue_text.RATES), ('super_glue', super_glue_text.RATES)):
        tasks = {task.name for task in seqio.MixtureRegistry.get(f'{name}_text').tasks}
        assert tasks == {f'{name}_{own}_text' for own in rates}


def test_topics_are_written(tmp_path, monkeypatch):
    monkeypatch.setenv('T5X_LITE_DATA_DIR', str(tmp_path))
    example = next(iter(read('wiki_topics_text', 'validation')))
    assert text(example['inputs']).startswith('topic: ')
    assert text(example['targets']) in TOPICS
