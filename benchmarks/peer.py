"""The same train step in PyTorch: transformers' BERT, GPT-2 and T5 built from our ModelConfig."""
# SPDX-License-Identifier: Apache-2.0

import importlib
import importlib.util

import jax
import numpy as np

from benchmarks import record
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Experiment
from t5x_lite.model.activations import gelu, gelu_tanh, relu
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.positions import Learned, Relative
from t5x_lite.optim import AdamW
from t5x_lite.step import abstract_params

# 'gelu_pytorch_tanh' is the fused form of the 'gelu_new' that GPT-2 and T5 1.1 name.
COMPILERS = {  # of a function, by the name of the contestant
    'eager': lambda function: function,
    'compiled': lambda function: importlib.import_module('torch').compile(function),
}
ACTIVATIONS = {gelu: 'gelu', gelu_tanh: 'gelu_pytorch_tanh', relu: 'relu'}


def check(experiment: Experiment) -> None:
    """ConfigError unless the experiment's step can be run beside ours, on the same device."""
    for package in ('torch', 'transformers'):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f'--peer transformers: {package} is not installed; '
                f'pip install torch transformers, or leave --peer out'
            )
    _family(experiment.model)
    (stream,) = experiment.streams.values()
    if not any(name.endswith('_loss_weights') for name in stream.spec()):
        raise ConfigError(
            '--peer transformers: its models have no contrastive loss; use --objective mlm'
        )
    if type(experiment.optimizer) is not AdamW or experiment.optimizer.clip is not None:
        raise ConfigError(
            '--peer transformers: its step has AdamW without a clip; use --optimizer adamw'
        )
    if jax.device_count() != 1 or jax.default_backend() not in ('cpu', 'gpu'):
        raise ConfigError(
            f'--peer transformers: needs one CPU or GPU, there are {jax.device_count()} of kind '
            f'{jax.default_backend()}; set JAX_PLATFORMS=cpu or CUDA_VISIBLE_DEVICES=0'
        )


def model_of(config: ModelConfig):
    """transformers' model of these sizes, with random weights; ConfigError if there is none."""
    return _family(config)(config)


def _family(config: ModelConfig):
    """The function that makes transformers' model of this kind; ConfigError if there is none."""
    kind = (config.stacks, type(config.positions), config.norm_first)
    families = {
        (('encoder',), Learned, False): _bert,
        (('decoder',), Learned, True): _gpt2,
        (('encoder', 'decoder'), Relative, True): _t5,
    }
    if kind not in families or config.activation not in ACTIVATIONS:
        raise ConfigError(
            f'--peer transformers: has no model of {" and ".join(config.stacks)} layers with '
            f'{config.positions}, norm_first={config.norm_first} and {config.activation.__name__}; '
            'use --preset bert_base, gpt2_small or t5_1_1_base, with --set model.embed=256 and so '
            'on for a smaller one'
        )
    return families[kind]


def _bert(config: ModelConfig):
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(
        BertConfig(
            vocab_size=config.vocab,
            hidden_size=config.embed,
            num_hidden_layers=config.encoder_layers,
            num_attention_heads=config.heads,
            intermediate_size=config.mlp,
            hidden_act=ACTIVATIONS[config.activation],
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            max_position_embeddings=config.positions.length,
            type_vocab_size=max(1, config.types),
            layer_norm_eps=config.norm.eps,
        )
    )


def _gpt2(config: ModelConfig):
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab,
            n_positions=config.positions.length,
            n_embd=config.embed,
            n_layer=config.decoder_layers,
            n_head=config.heads,
            n_inner=config.mlp,
            activation_function=ACTIVATIONS[config.activation],
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=config.dropout,
            layer_norm_epsilon=config.norm.eps,
            bos_token_id=None,
            eos_token_id=None,
            use_cache=False,
        )
    )


def _t5(config: ModelConfig):
    from torch import nn
    from transformers import T5Config, T5ForConditionalGeneration

    settings = T5Config(
        vocab_size=config.vocab,
        d_model=config.embed,
        d_kv=config.kv,
        d_ff=config.mlp,
        num_layers=config.encoder_layers,
        num_decoder_layers=config.decoder_layers,
        num_heads=config.heads,
        relative_attention_num_buckets=config.positions.buckets,
        relative_attention_max_distance=config.positions.max_distance,
        dropout_rate=config.dropout,
        layer_norm_epsilon=config.norm.eps,
        feed_forward_proj='gated-gelu' if config.gated else 'relu',
        tie_word_embeddings=config.tied,
        use_cache=False,
    )
    settings.dense_act_fn = ACTIVATIONS[config.activation]
    model = T5ForConditionalGeneration(settings)
    if not config.tied:  # transformers 5 ties it whatever the setting
        model.lm_head = nn.Linear(config.embed, config.vocab, bias=False)
    return model


class TransformersStep:
    """A train step of transformers' model: forward, loss at our positions, backward, AdamW.

    PyTorch with its fused AdamW and default attention; float32, or autocast to bfloat16 where the
    experiment says so. It gets no padding mask: the batch has none.

    Args:
      experiment: one stream, with AdamW as the optimizer; ConfigError if the peer's model has not
        exactly as many parameters.
      batch: the stream's arrays.
      compiler: one of COMPILERS, of forward pass and loss.
    """

    def __init__(self, experiment: Experiment, batch: dict[str, np.ndarray], compiler):
        import torch

        config, optimizer = experiment.model, experiment.optimizer
        self.device = 'cuda' if jax.default_backend() == 'gpu' else 'cpu'
        if self.device == 'cuda' and not torch.cuda.is_available():
            raise ConfigError(
                '--peer transformers: JAX runs on a GPU, but this torch has no CUDA; install one '
                'that has, or set JAX_PLATFORMS=cpu'
            )
        torch.manual_seed(experiment.seed)
        self.model = _family(config)(config).to(self.device).train()
        self.parameters = sum(p.numel() for p in self.model.parameters())
        parameters = sum(p.size for p in jax.tree.leaves(abstract_params(experiment)))
        if self.parameters != parameters:
            raise ConfigError(
                f'--peer transformers: its model has {self.parameters} parameters, ours '
                f'{parameters}; leave out what {type(self.model).__name__} does not know'
            )
        self.autocast = torch.autocast(
            self.device, dtype=torch.bfloat16, enabled=config.dtype == 'bfloat16'
        )
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=optimizer.learning_rate,
            betas=(optimizer.b1, optimizer.b2),
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        self.loss = compiler(self._loss)
        self._place(batch)

    def _place(self, batch) -> None:
        import torch

        on_device = lambda x: torch.from_numpy(x).long().to(self.device)
        sides = [name.removesuffix('_input_tokens') for name in batch if 'input' in name]
        inputs = [on_device(batch[f'{side}_input_tokens']) for side in sides]
        self.inputs = dict(zip(('input_ids', 'decoder_input_ids'), inputs, strict=False))
        scored_BxL = batch[f'{sides[-1]}_loss_weights'] > 0
        self.labels = on_device(np.where(scored_BxL, batch[f'{sides[-1]}_target_tokens'], -100))

    def _loss(self):
        from torch.nn.functional import cross_entropy

        with self.autocast:
            logits = self.model(**self.inputs).logits
        return cross_entropy(logits.flatten(0, 1).float(), self.labels.flatten())

    def dispatch(self) -> None:
        """One update; on a GPU it may still run when this returns."""
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def wait(self) -> None:
        """Returns when all updates are done."""
        if self.device == 'cuda':
            import torch

            torch.cuda.synchronize()

    def peak_memory(self) -> dict:
        """Bytes so far, and what they are."""
        if self.device == 'cpu':
            return {'memory_bytes': record.peak_rss(), 'memory_is': 'RSS, with compilation'}
        import torch

        return {'memory_bytes': torch.cuda.max_memory_allocated(), 'memory_is': 'of device 0'}

    def describe(self) -> dict:
        """What the record says of it."""
        import torch
        import transformers

        return {
            'model': type(self.model).__name__,
            'parameters': self.parameters,
            'attention': self.model.config._attn_implementation,
            'threads': torch.get_num_threads(),
            'versions': {'torch': torch.__version__, 'transformers': transformers.__version__},
        }
