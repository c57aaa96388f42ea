"""Weights in and out: Hugging Face files and T5X checkpoints, one name table per family."""
# SPDX-License-Identifier: Apache-2.0
