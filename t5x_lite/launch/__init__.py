"""Launching: a run on a Cloud TPU, or its manifest for Kubernetes or Slurm."""
# SPDX-License-Identifier: Apache-2.0
