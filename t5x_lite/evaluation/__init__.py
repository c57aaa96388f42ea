"""Scores of predictions against what is true: NumPy functions, and evaluators that collect them."""
# SPDX-License-Identifier: Apache-2.0
