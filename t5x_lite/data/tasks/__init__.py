"""One module per corpus; importing it registers its seqio tasks and mixtures."""
# SPDX-License-Identifier: Apache-2.0
