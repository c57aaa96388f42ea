"""Data: corpora, vocabularies, seqio tasks, and the NumPy path from token ids to batches."""
# SPDX-License-Identifier: Apache-2.0
