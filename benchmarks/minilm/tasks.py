"""The labelled tasks in the vocabulary of the weights."""
# SPDX-License-Identifier: Apache-2.0

from benchmarks import labelled_tasks
from benchmarks.minilm.weights import folder
from t5x_lite.data.hf_vocabulary import from_folder
from t5x_lite.data.labelled_task import labelled_task
from t5x_lite.data.tagged_task import tagged_task
from t5x_lite.data.tasks.wiki_topics_labels import SOURCE, TOPICS

OWN = from_folder(folder())

labelled_task('minilm_banking77', labelled_tasks.BANKING77, {'inputs': 'text'}, vocabulary=OWN)
labelled_task('minilm_wiki_topics', SOURCE, {'inputs': 'text'}, classes=TOPICS, vocabulary=OWN)
tagged_task('minilm_wnut17', labelled_tasks.WNUT17, tags=labelled_tasks.TAGS, vocabulary=OWN)
