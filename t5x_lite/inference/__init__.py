"""Trained runs in use: a Session for notebooks, and what the commands run."""
# SPDX-License-Identifier: Apache-2.0
