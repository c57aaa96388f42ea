"""Objectives, one file each: corruption, forward and terms as one value."""
# SPDX-License-Identifier: Apache-2.0
