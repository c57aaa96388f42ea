"""FLOPs of a train step, counted from sizes: three times the matrix products of its forward."""
# SPDX-License-Identifier: Apache-2.0
# A product [m, k] x [k, n] is 2 m k n; the backward pass has two for each one of the forward. The
# square of attention counts in full, masked or not, and the vocabulary where a loss is computed.
# Lookups, norms, activations, softmax, dropout, recomputation and the optimizer do not count.

from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Experiment, Stream
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.heads import MaskedLMHead
from t5x_lite.objective import Term, encode_twice, encode_twice_layers
from t5x_lite.objectives.losses import TokenLoss
from t5x_lite.objectives.similarity import ContrastiveLoss


def train_step_flops(experiment: Experiment) -> int:
    """FLOPs of one update over all streams: 3 x forward."""
    return 3 * sum(forward_flops(experiment.model, s) for s in experiment.streams.values())


def forward_flops(config: ModelConfig, stream: Stream) -> int:
    """FLOPs of a stream's forward pass with its losses, for one global batch."""
    objective, spec = stream.objective, stream.spec()
    shapes = {name: shape for name, (shape, _) in spec.items() if name.endswith('_input_tokens')}
    lengths = {name.removesuffix('_input_tokens'): shape[1] for name, shape in shapes.items()}
    views = 2 if objective.forward in (encode_twice, encode_twice_layers) else 1
    rows, total = views * stream.batch_size, 0
    for side, length in lengths.items():
        memory = lengths['encoder'] if side == 'decoder' and 'encoder' in lengths else None
        layers = config.decoder_layers if side == 'decoder' else config.encoder_layers
        total += layers * layer_flops(config, rows, length, memory)
    for term in objective.terms.values():
        total += loss_flops(config, term, stream.batch_size, lengths)
    return total


def layer_flops(config: ModelConfig, rows: int, length: int, memory: int | None = None) -> int:
    """A block on [rows, length] tokens, with cross-attention to a memory if there is one."""
    total = attention_flops(config, rows, length, length)
    if memory is not None:
        total += attention_flops(config, rows, length, memory)
    matrices = 3 if config.gated else 2
    return total + 2 * rows * length * matrices * config.embed * config.mlp


def attention_flops(config: ModelConfig, rows: int, queries: int, keys: int) -> int:
    """Queries and output over H heads, keys and values over G; scores and their mix over H."""
    D, H, G, K = config.embed, config.heads, config.groups, config.kv
    projections = 2 * rows * (queries * 2 * D * H * K + keys * 2 * D * G * K)
    return projections + 2 * rows * 2 * queries * keys * H * K


def loss_flops(config: ModelConfig, term: Term, batch: int, lengths: dict[str, int]) -> int:
    """A term's head, and logits at every position or scores of every pair of rows."""
    D = config.embed
    if isinstance(term.loss, TokenLoss):
        tokens = batch * lengths[term.loss.side]
        dense = D * D if isinstance(term.head, MaskedLMHead) else 0
        return 2 * tokens * (dense + D * config.vocab)
    if isinstance(term.loss, ContrastiveLoss):
        size = getattr(term.head, 'size', None) or D
        others = len(term.loss.views) - 1
        dense = (1 + others) * batch * D * size if term.head else 0
        return 2 * (dense + others * batch * batch * size)
    raise ConfigError(f'flops: {term.loss} is not counted; known: TokenLoss, ContrastiveLoss')
