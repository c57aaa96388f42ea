"""Which of 11 topics a lead of Wikipedia has."""
# SPDX-License-Identifier: Apache-2.0

from benchmarks.minilm.weights import classified

experiment = classified('minilm_wiki_topics', 11, length=96, steps=240, split='validation')
