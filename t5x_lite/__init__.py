"""t5x_lite: self-supervised pre-training and fine-tuning of Transformers in JAX."""
# SPDX-License-Identifier: Apache-2.0

__version__ = '0.1.0'
