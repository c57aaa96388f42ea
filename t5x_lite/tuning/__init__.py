"""Fine-tuning: what of a model learns, how fast and from when; adapters."""
# SPDX-License-Identifier: Apache-2.0
