"""Which of 77 intents a question to a bank has."""
# SPDX-License-Identifier: Apache-2.0

from benchmarks.minilm.weights import classified

experiment = classified('minilm_banking77', 77, length=32, steps=1200, split='test')
