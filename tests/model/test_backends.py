"""What computes attention: every backend equals a float64 reference, forward and gradients."""
# SPDX-License-Identifier: Apache-2.0

import fixtures
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from t5x_lite import sharding, step
from t5x_lite.model import choosing
from t5x_lite.model.backends import Cudnn, Dense, Flash, Seen, name
from t5x_lite.model.config import Local, ModelConfig
from t5x_lite.model.masks import Sight, Window
from t5x_lite.model.positions import NoPositions, Relative
from t5x_lite.sharding import MeshShape

FLASH = Flash(block=16, interpret=True)  # of 4 x 4 blocks, some have one bucket
ON_GPU = jax.default_backend() == 'gpu'
HEADS, KV = 4, 8
RELATIVE = Relative(buckets=8, max_distance=16)
PLAIN = dict(positions=NoPositions(), kv_heads=2)
# config, causal, lengths of queries and keys
CASES = {
    'relative bias both ways': (dict(positions=RELATIVE), False, (50, 50)),
    'relative bias, causal': (dict(positions=RELATIVE), True, (50, 50)),
    'window and cap': (dict(**PLAIN, attention_cap=2.0, local=Local(reach=9)), False, (50, 50)),
    'causal window': (dict(**PLAIN, local=Local(reach=9)), True, (50, 50)),
    'cross, grouped': (PLAIN, False, (40, 70)),
    'causal': (PLAIN, True, (50, 50)),
    'window': (dict(**PLAIN, local=Local(reach=9)), False, (50, 50)),
}
MORE = pytest.mark.all


def config(backend, **fields):
    sizes = dict(vocab=8, embed=HEADS * KV, heads=HEADS, mlp=8, decoder_layers=1)
    return ModelConfig(**sizes, attention=backend, scale_attention=False, **fields)


def inputs(fields, L, M, seed=0, texts=False):
    """q, k, v, bucket table, output weights; segments drawn for each token, 0 is padding.

    With `texts` each row holds one, the last is empty: booleans.
    """
    draw = np.random.default_rng(seed)
    groups = fields.get('kv_heads', HEADS)
    sizes = (2, HEADS, L, KV), (2, groups, M, KV), (2, groups, M, KV), (8, HEADS), (2, HEADS, L, KV)
    arrays = [jnp.asarray(draw.normal(size=s), jnp.float32) for s in sizes]
    drawn = lambda length: draw.integers(0, 3, (2, length))
    if texts:
        drawn = lambda length: np.arange(length)[None] < np.array([[length - 7], [0]])
    key_BxM = drawn(M)
    query_BxL = key_BxM if L == M else drawn(L)
    return arrays, (jnp.asarray(query_BxL), jnp.asarray(key_BxM))


def attend(config, causal, q, k, v, table, segments):
    """The layer's attention by the config's backend, as a block calls it."""
    L, M = q.shape[2], k.shape[2]
    backend, sight = config.attention, Sight(*segments, jnp.arange(L), jnp.arange(M), causal)
    seen = Seen(backend, sight, backend.mask(sight))
    if config.local is not None:
        seen = seen._replace(window=Window(config.local.reach, True))
    weights = config.positions.weights(config, nnx.Rngs(0))
    if weights is not None:
        weights = nnx.merge(nnx.graphdef(weights), {'relative_bias': table})
    bias = backend.bias(config.positions, weights, sight)
    return backend.attend(config, q, k, v, seen, past=None, bias=bias, key=None)


def allowed(config, causal, query_BxL, key_BxM):
    """Who may look at whom, pair by pair."""
    B, L, M = *query_BxL.shape, key_BxM.shape[1]
    mask = np.zeros((B, L, M), bool)
    for b, i, j in np.ndindex(B, L, M):
        own = query_BxL[b, i] == key_BxM[b, j] > 0
        near = config.local is None or abs(i - j) <= config.local.reach
        mask[b, i, j] = own and near and (j <= i or not causal)
    return mask


def reference(config, causal, q, k, v, table, mask):
    """Attention in float64, rows that see nothing 0."""
    share = config.heads // config.groups
    scores = jnp.einsum('BHLK,BHMK->BHLM', q, jnp.repeat(k, share, 1))
    if config.attention_cap is not None:
        scores = config.attention_cap * jnp.tanh(scores / config.attention_cap)
    if config.positions.has_bias:
        distance = np.arange(k.shape[2])[None] - np.arange(q.shape[2])[:, None]
        bucket = np.asarray(config.positions.bucket(jnp.asarray(distance), not causal))
        scores = scores + jnp.moveaxis(table[bucket], -1, 0)[None]
    scores = jnp.where(mask[:, None], scores, -1e30)
    sees = mask.any(-1)[:, None, :, None]
    y = jnp.einsum('BHLM,BHMK->BHLK', jax.nn.softmax(scores, -1), jnp.repeat(v, share, 1))
    return jnp.where(sees, y, 0.0)


def check_case(backend, case, dtype='float32', tolerance=1e-5, lengths=None, texts=False):
    fields, causal, (L, M) = CASES[case]
    L, M = lengths or (L, M)
    one = config(backend, dtype=dtype, **fields)
    (q, k, v, table, weight), segments = inputs(fields, L, M, texts=texts)
    q, k, v = (x.astype(dtype) for x in (q, k, v))
    mask = allowed(one, causal, *map(np.asarray, segments))
    sees = mask.any(-1)[:, None, :, None]

    def loss(q, k, v, table):
        y = jnp.where(sees, attend(one, causal, q, k, v, table, segments), 0)
        return jnp.sum(y.astype(jnp.float32) * weight), y

    (_, y), grads = jax.jit(jax.value_and_grad(loss, range(4), has_aux=True))(q, k, v, table)
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(x, np.float64)) for x in (q, k, v, table)]

        def exact(*args):
            y = reference(one, causal, *args, mask)
            return jnp.sum(y * np.asarray(weight, np.float64)), y

        (_, want_y), want = jax.value_and_grad(exact, range(4), has_aux=True)(*wide)
        for got, expected in zip((y, *grads), (want_y, *want), strict=True):
            got, expected = np.asarray(got, np.float64), np.asarray(expected)
            assert np.abs(got - expected).max() <= tolerance * max(1e-9, np.abs(expected).max())


@pytest.mark.parametrize('case', CASES)
def test_dense_attention_and_its_gradients_are_exact(case):
    check_case(Dense(), case)


@pytest.mark.parametrize(
    'case',
    [case if i == 2 else pytest.param(case, marks=MORE) for i, case in enumerate(CASES)],
)
def test_flash_attention_and_its_gradients_are_exact(case):
    check_case(FLASH, case)


@pytest.mark.all
@pytest.mark.parametrize('backend', [Dense(), FLASH])
@pytest.mark.parametrize('case', CASES)
def test_in_bfloat16_attention_is_exact_to_its_rounding(backend, case):
    check_case(backend, case, 'bfloat16', 1e-2)


@pytest.mark.all
def test_flash_attention_is_exact_in_blocks_of_128():
    check_case(Flash(interpret=True), 'relative bias, causal', lengths=(150, 150))


CUDNN = ['causal window', 'cross, grouped', 'window']
# rows of one text each: cuDNN is told their lengths
PLAIN_ROWS = ['relative bias both ways', 'relative bias, causal', 'causal', *CUDNN]


@pytest.mark.skipif(not ON_GPU, reason='cuDNN needs a GPU')
@pytest.mark.parametrize('case', CUDNN)
def test_cudnn_attention_and_its_gradients_are_exact_to_rounding(case):
    check_case(Cudnn(), case, 'bfloat16', 1e-2)


@pytest.mark.skipif(not ON_GPU, reason='cuDNN needs a GPU')
@pytest.mark.parametrize('case', PLAIN_ROWS)
def test_cudnn_attention_of_rows_of_one_text_is_exact_to_rounding(case):
    check_case(Cudnn(), case, 'bfloat16', 1e-2, texts=True)


@pytest.mark.parametrize('case', PLAIN_ROWS)
def test_dense_and_flash_attention_take_rows_of_one_text(case):
    check_case(Dense(), case, texts=True)
    check_case(FLASH, case, texts=True)


def lowered_for_cuda(case, texts, monkeypatch) -> str:
    """What is asked of a GPU's library is left out; shapes, types and layouts are checked."""
    fused = pytest.importorskip('jax._src.cudnn.fused_attention_stablehlo')
    monkeypatch.setattr(fused, 'check_cudnn_version', lambda: 91000)
    monkeypatch.setattr(fused, 'check_compute_capability', lambda _: True)
    monkeypatch.setattr(fused, 'is_cuda_compute_capability_equal', lambda _: False)
    fields, causal, (L, M) = CASES[case]
    one = config(Cudnn(), dtype='bfloat16', **fields)
    (q, k, v, table, _), segments = inputs(fields, L, M, texts=texts)
    q, k, v = (x.astype('bfloat16') for x in (q, k, v))

    def loss(q, k, v, table):
        return attend(one, causal, q, k, v, table, segments).astype(jnp.float32).sum()

    traced = jax.jit(jax.value_and_grad(loss, range(4))).trace(q, k, v, table)
    return traced.lower(lowering_platforms=('cuda',)).as_text().replace('\\22', '"')


@pytest.mark.parametrize('case', CUDNN)
def test_cudnn_attention_lowers_for_gpus_forward_and_back(case, monkeypatch):
    text = lowered_for_cuda(case, False, monkeypatch)
    assert '@__cudnn$fmhaScaleBiasSoftmax(' in text  # the mask
    assert '__cudnn$fmhaScaleBiasSoftmaxBackward' in text
    assert ('"CAUSAL' in text) == CASES[case][1]


@pytest.mark.parametrize(
    'case, kernel, mask',
    [
        ('causal', '__cudnn$fmhaSoftmax', 'PADDING_CAUSAL'),
        ('cross, grouped', '__cudnn$fmhaSoftmax', 'PADDING'),
        ('relative bias both ways', '__cudnn$fmhaScaleBiasSoftmax', 'PADDING'),
    ],
)
def test_rows_of_one_text_need_no_mask_on_gpus(case, kernel, mask, monkeypatch):
    text = lowered_for_cuda(case, True, monkeypatch)
    assert f'@{kernel}(' in text and f'@{kernel}Backward(' in text
    assert f'"{mask}"' in text
    assert 'x50x50xi1>' not in text and 'x40x70xi1>' not in text


@pytest.mark.parametrize('backend', [Dense(), FLASH], ids=name)
def test_another_segment_changes_nothing_bit_for_bit(backend):
    fields, causal, (L, M) = CASES['relative bias both ways']
    (q, k, v, table, _), _ = inputs(fields, L, M)
    segments = jnp.asarray(np.repeat([1, 2, 0], [20, 25, 5])[None].repeat(2, 0))
    run = jax.jit(
        lambda k, v: attend(config(backend, **fields), causal, q, k, v, table, [segments] * 2)
    )
    before = run(k, v)[:, :, :20]
    after = run(k.at[:, :, 20:].add(7.0), v.at[:, :, 20:].add(7.0))
    assert (after[:, :, :20] == before).all() and (after[:, :, 20:] != 0).any()


T5 = dict(encoder_layers=2, decoder_layers=2, positions=Relative(8, 16), scale_attention=False)
GPT = dict(encoder_layers=0, decoder_layers=2, kv_heads=2, local=Local(reach=5), attention_cap=9.0)
BERT = dict(encoder_layers=3, decoder_layers=0, local=Local(reach=4, global_every=2))
UMT5 = T5 | dict(positions=Relative(8, 16, per_layer=True))
TRAINED = [
    ('span', T5, MeshShape(data=2, model=2)),
    pytest.param('clm', GPT, MeshShape(data=1), marks=MORE),
    pytest.param('clm', GPT, MeshShape(data=2, fsdp=2, model=2), marks=MORE),
    pytest.param('mlm', BERT, MeshShape(data=1), marks=MORE),
    pytest.param('span', UMT5, MeshShape(data=2, fsdp=2, model=2), marks=MORE),
]


@pytest.mark.parametrize('objective, model, mesh', TRAINED)
def test_flash_changes_no_loss_and_no_gradient(objective, model, mesh):
    def learn(backend, mesh):
        one = fixtures.experiment(
            objective,
            model=dict(model, embed=16, heads=2 * mesh.model, attention=backend),
            mesh=mesh,
        )
        devices = sharding.make_mesh(mesh, jax.devices()[: np.prod(mesh.sizes)])
        where = step.state_shardings(one, devices).params
        params = jax.jit(lambda: step.init_state(one).params, out_shardings=where)()
        batches = fixtures.batches(one, 1)[0]

        def gradients(params, batches):
            with sharding.active(devices, one.rules):
                return step.gradients(one, step.model_of(one), params, batches, 0)

        total, _, grads = jax.jit(gradients)(params, batches)
        return jax.device_get((total, grads))

    with choosing.watching() as found:
        got = learn(Flash(block=16, interpret=True), mesh)
    assert {name(choice.backend) for _, choice in found} == {'flash'}
    want = learn(Dense(), mesh)
    assert abs(got[0] - want[0]) <= 1e-5 * want[0]
    for a, b in zip(*map(jax.tree.leaves, (got[1], want[1])), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1e-3, np.abs(b).max()))
