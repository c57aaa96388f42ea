"""Which backend computes attention: what Auto takes, what is refused and when, what a run says."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import fixtures
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import sharding
from t5x_lite.errors import ConfigError
from t5x_lite.model.backends import Auto, Case, Cudnn, Dense, Flash, name
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.positions import Learned, NoPositions, Relative
from t5x_lite.model.transformer import build
from t5x_lite.sharding import MeshShape
from t5x_lite.tuning import summary

INTERPRETED = Flash(interpret=True)
CASE = Case('bfloat16', 64, Relative(), None, 0.0, 8, 'encoder', 'tpu', (4096, 4096))


@pytest.mark.parametrize(
    'changes, backend, words',
    [
        ({}, 'flash', 'tpu, bfloat16'),
        (dict(bias=None, platform='gpu'), 'cudnn', 'gpu, bfloat16'),
        (dict(platform='cpu'), 'dense', 'cpu'),
        (dict(lengths=(512, 4096)), 'dense', 'below 2,048 tokens'),
        (dict(dtype='float32'), 'dense', 'float32'),
        (dict(dropout=0.1), 'dense', 'flash drops no attention'),
        (dict(prefix=True), 'dense', 'prefix'),
        (dict(order=True), 'dense', 'order'),
        (dict(uneven='needs whole rows'), 'dense', 'needs whole rows'),
        (dict(platform='gpu', plain=True), 'cudnn', 'gpu, bfloat16'),
        (dict(platform='gpu'), 'dense', 'no gradient of a bias'),
        (dict(platform='gpu', bias=None, cap=50.0), 'dense', 'no soft cap'),
        (dict(platform='gpu', bias=None, head_size=256), 'dense', 'up to 128'),
        (dict(platform='gpu', bias=None, lengths=(4096, 4097)), 'dense', 'even lengths'),
    ],
)
def test_auto_takes_the_kernel_of_the_device_where_it_can(changes, backend, words):
    choice = Auto().choose(CASE._replace(**changes))
    assert name(choice.backend) == backend and words in choice.why


class Slopes(NoPositions):
    def bias(self, weights, query_L, key_M, bidirectional):
        return -jnp.abs(key_M[None] - query_L[:, None])[None] * jnp.ones((4, 1, 1))


@pytest.mark.parametrize(
    'backend, fields, words',
    [
        ('flash', {}, ["attention='flash'", 'Auto(), Dense(), Flash() or Cudnn()']),
        (Flash(), dict(dropout=0.1), ['Flash(', 'dropout=0.1', 'set dropout=0.0']),
        (Flash(), dict(positions=Slopes()), ['no bias but Relative', 'attention=Auto()']),
        (Cudnn(), {}, ["dtype='float32'", "set dtype='bfloat16'"]),
        (Cudnn(), dict(dtype='bfloat16', attention_cap=5.0), ['attention_cap=5.0']),
        (Cudnn(), dict(dtype='bfloat16', head_size=12), ['head_size=12', 'multiple of 8']),
    ],
)
def test_a_backend_that_the_config_rules_out_is_refused_when_it_is_built(backend, fields, words):
    with pytest.raises(ConfigError) as error:
        ModelConfig(
            vocab=8, embed=32, heads=4, mlp=8, decoder_layers=1, attention=backend, **fields
        )
    assert all(word in str(error.value) for word in words), error.value


def test_a_bad_value_of_a_backend_is_refused():
    for make, word in (
        (lambda: Flash(block=12), 'block=12'),
        (lambda: Auto(shortest=0), 'shortest=0'),
        (lambda: Auto(platform='tpus'), "platform='tpus'"),
    ):
        with pytest.raises(ConfigError, match=word):
            make()


def test_what_only_the_pass_tells_is_refused_when_it_is_traced():
    x = jnp.ones((2, 8), int)
    fields = dict(vocab=8, embed=16, heads=2, mlp=8, positions=Learned(16))

    def trace(run, attention=INTERPRETED, **layers):
        model = ModelConfig(**fields, **layers, attention=attention)
        jax.eval_shape(lambda: run(build(model)))

    encoder, decoder = dict(encoder_layers=1), dict(decoder_layers=1)
    with pytest.raises(ConfigError, match='prefix.* in decoder 8 x 8; set attention=Auto'):
        trace(lambda model: model.decode(x, prefix=x)[0], **decoder)
    with pytest.raises(ConfigError, match='order'):
        trace(lambda model: model.encode(x, order=(x, x)), **encoder)
    mesh = sharding.make_mesh(MeshShape(context=2), jax.devices()[:2])
    with sharding.active(mesh), pytest.raises(ConfigError, match='needs whole rows'):
        trace(lambda model: model.encode(x), **encoder)
    with sharding.active(mesh), pytest.raises(ConfigError, match='for TPUs, here cpu'):
        trace(lambda model: model.encode(x), Flash(), **encoder)


def test_decoding_on_a_cache_is_dense_with_any_backend():
    fields = dict(vocab=8, embed=16, heads=2, mlp=8, decoder_layers=1)
    x = jnp.asarray([[1, 2, 3, 4]])
    flash, dense = (build(ModelConfig(**fields, attention=b)) for b in (Flash(), Dense()))
    cached = lambda model: model.decode(x, cache=model.start_cache(1, 8))[0]
    np.testing.assert_array_equal(cached(flash), cached(dense))


def test_a_run_says_in_one_line_what_computes_attention():
    one = fixtures.experiment('span')
    line = 'attention: dense (cpu): encoder 24 x 24, decoder 12 x 12, cross 12 x 24'
    assert summary.attention(one, 8) == line
    auto = Auto(platform='tpu', shortest=20)
    model = dataclasses.replace(one.model, dtype='bfloat16', attention=auto)
    assert summary.attention(dataclasses.replace(one, model=model), 8) == (
        'attention: flash (tpu, bfloat16): encoder 24 x 24 (dense scores: 0 MiB a row); '
        'dense (tpu, below 20 tokens): decoder 12 x 12, cross 12 x 24'
    )
