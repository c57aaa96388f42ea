"""ModelConfig: every choice that makes an architecture, as one value that validates itself."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from t5x_lite.errors import ConfigError, nearest
from t5x_lite.model import choosing, matmuls
from t5x_lite.model.activations import gelu
from t5x_lite.model.backends import Auto
from t5x_lite.model.inits import Normal
from t5x_lite.model.norms import RMSNorm
from t5x_lite.model.positions import Rope

DTYPES = ('float32', 'bfloat16')
REMAT = ('none', 'dots', 'full', 'offload', 'auto')


@dataclass(frozen=True, kw_only=True)
class Local:
    """Layers with a window: tokens see `reach` tokens either way.

    All but layers 0, global_every, 2 * global_every, ..., which see everything (ModernBERT);
    `global_every=None` has none of these (Mistral).
    """

    reach: int
    global_every: int | None = None

    def __post_init__(self):
        for name in ('reach', 'global_every'):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ConfigError(f'Local: {name}={value!r} must be an integer of 1 or more')


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes and variants. `encoder_layers, decoder_layers` choose the family: BERT, GPT or T5.

    Parameters are float32; `dtype` is what matrices are multiplied in; softmax, loss and norm
    statistics are float32. Changing `remat` or `unroll` changes memory and speed, no number:
    `offload` is `full` with each layer's input in the host's memory until the backward pass, `auto`
    what a run chooses at its start (`recompute.py`), `none` for a model by itself.
    """

    vocab: int  # ids that are embedded and scored, at least the vocabulary's size
    embed: int
    heads: int
    mlp: int  # width of the feed-forward layer
    encoder_layers: int = 0
    decoder_layers: int = 0
    vocab_multiple: int = 1  # the tables get rows up to a multiple, never scored; read `rows`
    types: int = 0  # sentence marks of the encoder (`token_type_ids`; BERT: 2)
    embedding_size: int | None = None  # of the tables, projected to embed (ELECTRA); read `table`
    head_size: int | None = None  # None: embed / heads; read `kv`
    kv_heads: int | None = None  # None: as many as heads; fewer for grouped queries; read `groups`
    positions: Any = Rope()
    norm: Any = RMSNorm()
    norm_first: bool = True  # pre-norm with a final norm, or post-norm (BERT)
    norm_embedding: bool = False
    first_norm: bool = True  # False: no norm before layer 0's attention (ModernBERT)
    qk_norm: bool = False  # RMSNorm on each head's queries and keys (Qwen 3)
    local: Local | None = None  # layers with a window
    activation: Callable = gelu
    gated: bool = False  # activation(x W0) * (x W1) (Shazeer 2020)
    bias: bool = False  # biases in linear layers
    tied: bool = True  # output head = token embedding
    scale_logits: bool = False  # tied logits * embed^-1/2 (T5 1.0)
    scale_attention: bool = True  # scores * head_size^-1/2; T5 leaves it out
    attention_cap: float | None = None  # soft caps of attention scores and of logits (Gemma 2)
    logits_cap: float | None = None
    attention: Any = Auto()  # what computes it: Auto, Dense, Flash, Cudnn
    matmul: Any = matmuls.Float()  # what layers' products are computed in: Float, Int8, Fp8
    dropout: float = 0.0
    init: Any = Normal()
    dtype: str = 'float32'
    remat: str = 'none'  # what the backward pass computes again: none, all but dots, full, ...
    unroll: int | None = None  # layers per iteration of the scan over layers; None: what suits

    def __post_init__(self):
        self._check_sizes()
        self._check_variants()
        if self.head_size is None and self.embed % self.heads:
            raise ConfigError(
                f'ModelConfig: heads={self.heads} must divide embed={self.embed}; '
                f'try {_divisor_near(self.embed, self.heads)}, or set head_size'
            )
        if self.heads % self.groups:
            raise ConfigError(
                f'ModelConfig: kv_heads={self.kv_heads} must divide heads={self.heads}; '
                f'try {_divisor_near(self.heads, self.groups)}'
            )
        for name, known in (('dtype', DTYPES), ('remat', REMAT)):
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise ConfigError(
                    f'ModelConfig: {name}={value!r} is unknown; {nearest(value, known)}'
                )
        if isinstance(self.positions, Rope) and self.kv % 2:
            raise ConfigError(
                f'ModelConfig: head_size={self.kv} must be even for Rope; try {self.kv + 1}'
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f'ModelConfig: dropout={self.dropout} must be in [0, 1); try 0.1')
        choosing.check(self)
        matmuls.check(self.matmul)

    @property
    def recomputes(self) -> bool:
        """The backward pass begins each layer again from its input."""
        return self.remat in ('full', 'offload')

    def _check_sizes(self):
        optional = ('head_size', 'kv_heads', 'embedding_size', 'unroll')
        for name in ('vocab', 'vocab_multiple', 'embed', 'heads', 'mlp', *optional):
            value = getattr(self, name)
            if not (value is None and name in optional) and (type(value) is not int or value < 1):
                raise ConfigError(f'ModelConfig: {name}={value!r} must be an integer of 1 or more')
        for name in ('encoder_layers', 'decoder_layers', 'types'):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ConfigError(f'ModelConfig: {name}={value!r} must be an integer of 0 or more')
        if self.encoder_layers + self.decoder_layers == 0:
            raise ConfigError(
                'ModelConfig: encoder_layers=0 and decoder_layers=0 is no model; '
                'set encoder_layers (BERT), decoder_layers (GPT) or both (T5)'
            )

    def _check_variants(self):
        if self.decoder_layers and self.embedding_size is not None:
            raise ConfigError(
                f'ModelConfig: embedding_size={self.embedding_size} is for models without a '
                f'decoder, here decoder_layers={self.decoder_layers}; leave it out'
            )
        if self.types and not self.encoder_layers:
            raise ConfigError(
                f'ModelConfig: types={self.types} marks the tokens of an encoder, here '
                'encoder_layers=0; leave it out'
            )
        for name in ('attention_cap', 'logits_cap'):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f'ModelConfig: {name}={value} must be above 0; try 50.0')
        if not self.first_norm and not self.norm_first:
            raise ConfigError(
                'ModelConfig: first_norm=False leaves out a norm before attention, but '
                'norm_first=False has none; leave first_norm out'
            )

    def check_order(self, owner: str) -> None:
        """ConfigError unless `Model.encode(order=...)` works: tokens may stand at any place."""
        if not self.positions.reads_positions:
            raise ConfigError(
                f'{owner}: its query tokens stand behind the text and tell where they belong by '
                f'their positions, which model.positions={self.positions!r} does not read; use '
                'Rope() or Learned(...)'
            )
        if self.local is not None:
            raise ConfigError(
                f'{owner}: its query tokens stand behind the text, out of reach of '
                f'model.local={self.local!r}, which counts places; set model.local=None'
            )

    @property
    def rows(self) -> int:
        """Rows of the token tables: vocab, up to a multiple of vocab_multiple."""
        return -(-self.vocab // self.vocab_multiple) * self.vocab_multiple

    @property
    def table(self) -> int:
        """Width of the embedding tables: embedding_size, or embed."""
        return self.embed if self.embedding_size is None else self.embedding_size

    @property
    def kv(self) -> int:
        """Size of a head: head_size, or embed / heads."""
        return self.embed // self.heads if self.head_size is None else self.head_size

    @property
    def attention_scale(self) -> float:
        """What scores are multiplied by."""
        return self.kv**-0.5 if self.scale_attention else 1.0

    @property
    def groups(self) -> int:
        """Heads of keys and values, each shared by heads / groups queries (Ainslie et al. 2023)."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def stacks(self) -> tuple[str, ...]:
        """The stacks of layers it has: ('encoder',), ('decoder',) or both."""
        layers = {'encoder': self.encoder_layers, 'decoder': self.decoder_layers}
        return tuple(name for name, count in layers.items() if count)


def _divisor_near(size: int, wanted: int) -> int:
    return min((d for d in range(1, size + 1) if size % d == 0), key=lambda d: abs(d - wanted))
