"""Tasks `wiki_topics` and `wiki_topics_text`: leads of Wikipedia, which of 11 topics they have."""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.data import corpora
from t5x_lite.data.labelled_task import labelled_task
from t5x_lite.data.text_task import PreparedTfds, text_task
from t5x_lite.data.text_to_text_task import class_of, text_to_text_task, texts
from t5x_lite.data.tfds_builder import WikiTopics, prepared
from t5x_lite.evaluation.classes import accuracy, f1_macro

TOPICS = (
    'Arts',
    'Biology and health sciences',
    'Everyday life',
    'Geography',
    'History',
    'Mathematics',
    'People',
    'Philosophy and religion',
    'Physical sciences',
    'Society and social sciences',
    'Technology',
)
"""The classes; a label is a topic's place here."""

SOURCE = PreparedTfds(
    f'{WikiTopics.name}:{WikiTopics.VERSION}',
    splits={split: split for split in corpora.SPLITS},
    prepare=prepared(WikiTopics),
)

labelled_task('wiki_topics', SOURCE, {'inputs': 'text'}, label='label', classes=TOPICS)
text_to_text_task(
    'wiki_topics_text',
    SOURCE,
    texts('text', 'label', begin='topic: '),
    metrics=(accuracy, f1_macro),
    postprocess=class_of(TOPICS),
)
text_task('wiki_topics_plain', SOURCE)
