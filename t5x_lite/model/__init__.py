"""Models: encoders, decoders and encoder-decoders from one block library."""
# SPDX-License-Identifier: Apache-2.0
