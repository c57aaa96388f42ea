"""Replaced-token detection: the generator's masks, its samples, the labels, and who learns what."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import math

import fixtures
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from test_mlm import batch as rows_of
from test_step import furthest, run

from t5x_lite import step
from t5x_lite.data.randomness import uniforms
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Experiment, Stream
from t5x_lite.model import presets
from t5x_lite.model.heads import Generator
from t5x_lite.model.norms import LayerNorm
from t5x_lite.model.positions import Learned, NoPositions, Relative
from t5x_lite.objectives.replaced_tokens import (
    DetectionLoss,
    GeneratorLoss,
    ReplacedTokens,
    electra,
    paste,
    sample,
)
from t5x_lite.optim import AdamW
from t5x_lite.sharding import MeshShape

ELECTRA = dict(
    embedding_size=24,
    types=2,
    positions=Learned(32),
    norm=LayerNorm(eps=1e-12),
    norm_first=False,
    norm_embedding=True,
    bias=True,
)


def experiment(objective=None, length=16, model=None, **fields) -> Experiment:
    """Width 32 with tables of 24, a generator of width 8 and one head, 16 rows."""
    plain = fixtures.experiment('mlm', model=dict(decoder_layers=0, **ELECTRA, **(model or {})))
    stream = Stream(
        mixture='none',
        objective=objective or electra(),
        lengths={'targets': length},
        batch_size=16,
    )
    return dataclasses.replace(plain, streams={'electra': stream}, **fields)


def forward_of(own):
    """The objective's forward, jitted: (params, batch, key) -> outputs."""
    objective, model_of_params = own.streams['electra'].objective, step.model_of(own)
    return jax.jit(
        lambda params, batch, key=None: objective.forward(model_of_params(params), batch, key)
    )


# data


def test_a_batch(vocabulary):
    scores = [0.0, 0.5, 0.3, 0.1, 0.4, 0.6, 0.2, 0.0]  # two lowest of text: 0.1 and 0.2
    changes = [0.0, 0.0, 0.0, 0.84, 0.0, 0.0, 0.86, 0.0]  # a mask, then kept as it is
    documents, numbers = [range(10, 16), [10, 11]], np.array([scores + changes] * 2)
    out = rows_of(ReplacedTokens(rate=0.25), vocabulary, documents, numbers)
    expected = {
        'encoder_input_tokens': [[3, 10, 11, 5, 13, 14, 15, 4], [3, 10, 5, 4, 0, 0, 0, 0]],
        'encoder_target_tokens': [[3, 10, 11, 12, 13, 14, 15, 4], [3, 10, 11, 4, 0, 0, 0, 0]],
        'encoder_loss_weights': [[0, 0, 0, 1, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0, 0, 0]],
        'encoder_segment_ids': [[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0, 0]],
        'encoder_positions': [[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 0, 0, 0, 0]],
        'encoder_predicted_positions': [[3, 6], [2, 0]],
    }
    for name, value in expected.items():
        np.testing.assert_array_equal(out.pop(name), value, err_msg=name)
    assert out == {}


def test_batches_have_the_shapes_and_types_of_spec(vocabulary):
    converter, lengths = ReplacedTokens(), {'targets': 40}
    out = rows_of(converter, vocabulary, [[9] * 100], lengths=lengths)
    found = {name: (x.shape[1:], x.dtype) for name, x in out.items()}
    assert found == converter.spec(lengths)


@pytest.mark.parametrize(
    'rate, length, most',
    [(0.15, 128, 19), (0.15, 512, 79), (0.25, 512, 130), (0.15, 3, 1), (1.0, 400, 398)],
)
def test_at_most_rate_plus_a_half_percent_of_a_row_is_predicted(rate, length, most):
    assert ReplacedTokens(rate=rate).most({'targets': length}) == most


def test_of_20000_predictions_85_percent_are_masked_and_the_others_kept(vocabulary):
    lengths = {'targets': 102}
    out = rows_of(ReplacedTokens(rate=0.2), vocabulary, [[9] * 100_000], lengths=lengths)
    inputs = out['encoder_input_tokens'][out['encoder_loss_weights'] == 1]
    assert inputs.size == 20_000
    assert set(inputs) == {5, 9}
    assert abs((inputs == 5).mean() - 0.85) < 0.01


def test_places_are_those_of_the_weights_and_the_rest_are_cls(vocabulary):
    converter, lengths = ReplacedTokens(), {'targets': 64}
    random = np.random.default_rng(0)
    documents = [random.integers(6, 17, n) for n in random.integers(2, 62, 50)]
    out = rows_of(converter, vocabulary, documents, lengths=lengths)
    for weights, places in zip(
        out['encoder_loss_weights'], out['encoder_predicted_positions'], strict=True
    ):
        (chosen,) = np.nonzero(weights)
        np.testing.assert_array_equal(places, np.pad(chosen, (0, 9 - len(chosen))))
    assert out['encoder_loss_weights'][:, 0].sum() == 0


def test_rate_0_and_a_row_of_special_tokens_predict_nothing(vocabulary):
    for converter, tokens in ((ReplacedTokens(rate=0.0), [6, 7]), (ReplacedTokens(), [1, 2])):
        out = rows_of(converter, vocabulary, [tokens])
        assert out['encoder_loss_weights'].sum() == 0
        assert out['encoder_predicted_positions'].tolist() == [[0]]
        np.testing.assert_array_equal(out['encoder_input_tokens'], out['encoder_target_tokens'])


# sampling, pasting, labels


def test_pasting_changes_the_used_places_only():
    tokens = jnp.array([[3, 10, 11, 12, 4], [3, 10, 11, 4, 0]])
    new, places = jnp.array([[7, 8], [9, 6]]), jnp.array([[1, 3], [2, 0]])
    used = jnp.array([[True, True], [True, False]])
    np.testing.assert_array_equal(
        paste(tokens, new, places, used), [[3, 7, 11, 8, 4], [3, 10, 9, 4, 0]]
    )


def test_samples_are_drawn_from_the_softmax():
    shares = np.array([0.5, 0.3, 0.15, 0.05, 0.0])
    logits = jnp.log(jnp.asarray(shares) + 1e-20) + 3.0
    drawn = sample(jnp.broadcast_to(logits[None, None], (200, 100, 5)), jax.random.key(1))
    found = np.bincount(np.ravel(drawn), minlength=5) / 20_000
    assert np.abs(found - shares).max() < 0.01


def favour(token: int, params):
    """The generator is sure of one token, whatever it reads."""
    bias = params['heads']['generator']['head']['bias']
    params['heads']['generator']['head']['bias'] = bias.at[token].set(1e4)
    return params


def test_a_replaced_token_is_one_that_differs_and_a_correct_guess_is_original():
    """Half of the first predicted tokens are 20, which the generator always writes."""
    own = experiment()
    (batch,) = fixtures.batches(own, 1)
    batch = batch['electra']
    places = batch['encoder_predicted_positions']
    batch['encoder_target_tokens'][np.arange(16), places[:, 0]] = np.where(np.arange(16) % 2, 20, 9)
    params = favour(20, step.init_state(own).params)
    out = forward_of(own)(params, batch, jax.random.key(0))
    original, chosen = batch['encoder_target_tokens'], batch['encoder_loss_weights'] > 0
    np.testing.assert_array_equal(out['replaced'], chosen & (original != 20))
    first = out['replaced'][np.arange(16), places[:, 0]]
    np.testing.assert_array_equal(first, [1, 0] * 8)


def test_the_discriminator_reads_the_original_text_where_nothing_is_replaced():
    """[MASK] is the generator's alone; a generator that is right leaves the text as it was."""
    own = experiment()
    (batch,) = fixtures.batches(own, 1)
    batch = batch['electra']
    chosen = batch['encoder_loss_weights'] > 0
    batch['encoder_target_tokens'][chosen] = 20
    params = favour(20, step.init_state(own).params)
    model = step.model_of(own)(params)
    plain = model.encode(
        batch['encoder_target_tokens'],
        segments=batch['encoder_segment_ids'],
        positions=batch['encoder_positions'],
    )
    out = forward_of(own)(params, batch)
    assert (batch['encoder_input_tokens'] == 5).any()
    assert out['replaced'].sum() == 0
    np.testing.assert_allclose(out['encoder_hidden'], plain, atol=1e-5)


def test_evaluation_repeats_itself_and_training_draws_anew():
    own = experiment()
    (batch,) = fixtures.batches(own, 1)
    forward, params, batch = forward_of(own), step.init_state(own).params, batch['electra']
    one, same = (forward(params, batch) for _ in range(2))
    a, b = (forward(params, batch, jax.random.key(i)) for i in (1, 2))
    np.testing.assert_array_equal(one['encoder_hidden'], same['encoder_hidden'])
    # without dropout only the samples differ
    np.testing.assert_array_equal(a['generator_logits'], b['generator_logits'])
    assert np.abs(a['encoder_hidden'] - b['encoder_hidden']).max() > 0.1


def test_padding_changes_nothing_and_has_no_weight():
    own = experiment()
    (batch,) = fixtures.batches(own, 1)
    batch = batch['electra']
    padding = batch['encoder_segment_ids'] == 0
    assert padding.any()
    other = {**batch, 'encoder_target_tokens': np.where(padding, 9, batch['encoder_target_tokens'])}
    other['encoder_input_tokens'] = np.where(padding, 9, batch['encoder_input_tokens'])
    objective, model = own.streams['electra'].objective, step.model_of(own)
    params = step.init_state(own).params
    means = jax.jit(lambda batch: objective.means(model(params), batch))
    a, b = means(batch), means(other)
    for term in a:
        for name in a[term]:
            np.testing.assert_allclose(a[term][name], b[term][name], rtol=1e-5, err_msg=name)
    assert a['discriminator']['loss'].count == (~padding).sum()
    assert a['mlm']['loss'].count == batch['encoder_loss_weights'].sum()


def test_losses_on_literals():
    batch = {
        'encoder_segment_ids': jnp.array([[1, 1, 1, 0]]),
        'encoder_target_tokens': jnp.array([[3, 1, 2, 0]]),
        'encoder_loss_weights': jnp.array([[0.0, 0.0, 1.0, 0.0]]),
        'encoder_predicted_positions': jnp.array([[2, 0]]),
    }
    logits = jnp.array([[0.0, 2.0, -1.0, 50.0]])
    outputs = {
        'encoder_hidden': logits[..., None],
        'replaced': jnp.array([[0, 0, 1, 0]]),
        'generator_logits': jnp.log(jnp.array([[[0.1, 0.2, 0.6, 0.1], [0.7, 0.1, 0.1, 0.1]]])),
    }
    found = DetectionLoss()(None, lambda hidden: hidden, outputs, batch)
    expected = math.log(2) + math.log(1 + math.exp(2)) + math.log(1 + math.exp(1))
    assert float(found['loss'].value) == pytest.approx(expected / 3, rel=1e-6)
    shares = {name: round(float(found[name].total)) for name in ('accuracy', 'replaced', 'found')}
    assert shares == {'accuracy': 1, 'replaced': 1, 'found': 0}
    assert all(mean.count == 3 for mean in found.values())
    found = GeneratorLoss()(None, None, outputs, batch)
    assert float(found['nll'].value) == pytest.approx(-math.log(0.6), rel=1e-6)
    assert (float(found['accuracy'].total), float(found['nll'].count)) == (1.0, 1.0)


# who learns what


def gradients_of(own, batch, term: str, metric='loss'):
    """{path: gradient} of one term's mean."""
    objective = own.streams['electra'].objective

    def loss(params):
        model = step.model_of(own)(params)
        return objective.means(model, batch, jax.random.key(3))[term][metric].total

    grads = jax.jit(jax.grad(loss))(step.init_state(own).params)
    return {path: np.abs(x).max() for path, x in flatten_dict(grads, sep='/').items()}


def test_no_gradient_flows_through_the_sample_and_embeddings_learn_from_both():
    own = experiment()
    (batch,) = fixtures.batches(own, 1)
    detect = gradients_of(own, batch['electra'], 'discriminator')
    fill = gradients_of(own, batch['electra'], 'mlm')
    generator = [path for path in detect if path.startswith('heads/generator/')]
    assert len(generator) > 15
    assert all(detect[path] == 0 for path in generator)
    assert all(fill[path] > 0 for path in generator if not path.endswith('key/bias'))
    shared = [
        'token_embedding/embedding',
        'encoder/positions/embedding',
        'encoder/types/embedding',
        'encoder/embedding_norm/scale',
    ]
    assert all(detect[path] > 0 and fill[path] > 0 for path in shared)
    rest = set(detect) - set(generator) - set(shared) - {'encoder/embedding_norm/bias'}
    assert {p.split('/')[0] for p in rest} == {'encoder', 'heads'}
    assert all(fill[path] == 0 for path in rest)


def test_the_loss_is_that_of_the_generator_and_fifty_times_that_of_the_discriminator():
    values, _ = run(experiment(), fixtures.batches(experiment(), 1))
    mlm, detect = values[0]['electra/mlm/loss'], values[0]['electra/discriminator/loss']
    assert values[0]['loss'] == pytest.approx(mlm + 50 * detect, rel=1e-6)
    assert 0.5 < detect < 0.9 and 3.5 < mlm < 5


def overfit(objective, steps):
    own = experiment(
        objective,
        model=dict(embed=64, mlp=128),
        optimizer=AdamW(learning_rate=3e-3, clip=1.0),
    )
    values, _ = run(own, fixtures.batches(own, 1) * steps)
    return {name.removeprefix('electra/'): value for name, value in values[-1].items()}


@pytest.mark.all
def test_the_generator_overfits_a_batch_and_then_all_is_original():
    last = overfit(electra(width=1.0, discriminator_weight=1.0), 150)
    assert last['mlm/nll'] < 0.05
    assert last['mlm/accuracy'] > 0.98
    assert last['discriminator/replaced'] < 0.01
    assert last['discriminator/loss'] < 0.05


def test_the_discriminator_finds_what_an_untrained_generator_writes():
    """16 texts, in each step with other random tokens. Without reading: 0.38 nats, none found."""
    last = overfit(electra(generator_weight=0.0, discriminator_weight=1.0), 300)
    assert last['mlm/nll'] > 4
    assert last['discriminator/replaced'] > 0.1
    assert last['discriminator/loss'] < 0.12
    assert last['discriminator/accuracy'] > 0.96
    assert last['discriminator/found'] > 0.8 * last['discriminator/replaced']


@pytest.mark.all
def test_a_mesh_changes_no_loss():
    one = experiment(electra(width=0.5), model=dict(dropout=0.1))
    data = fixtures.batches(one, 3)
    alone, _ = run(one, data)
    many, _ = run(dataclasses.replace(one, mesh=MeshShape(data=2, fsdp=2, model=2)), data, 8)
    assert furthest(alone, many) < 5e-5  # of a sum with a weight of 50


@pytest.mark.all
def test_microbatches_change_no_gradient_of_the_generator_and_no_count():
    """Each microbatch draws its own samples; the generator's loss does not depend on them."""
    one = experiment(electra(discriminator_weight=0.0))
    (batch,) = fixtures.batches(one, 1)
    batch['electra']['encoder_loss_weights'][::4] = 0.0
    params, found = step.init_state(one).params, []
    for own in (one, dataclasses.replace(one, microbatches=4)):
        grad = lambda p, own=own: step.gradients(own, step.model_of(own), p, batch, 0)
        found.append(jax.jit(grad)(params))
    (first, means, grads), (second, other, others) = found
    assert float(first) == pytest.approx(float(second), abs=2e-6)
    assert {n: float(m.count) for n, m in means.items()} == {
        n: float(m.count) for n, m in other.items()
    }
    for x, y in zip(jax.tree.leaves(grads), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=2e-6)


# the generator's architecture


@pytest.mark.parametrize('name, width', [('small', 1 / 4), ('base', 1 / 3), ('large', 1 / 4)])
def test_generators_have_the_published_sizes(name, width):
    discriminator = getattr(presets, f'electra_{name}')()
    found = Generator(width=width).narrowed(discriminator)
    published = getattr(presets, f'electra_{name}_generator')()
    for field in ('embed', 'heads', 'kv', 'mlp', 'encoder_layers', 'table', 'norm', 'dropout'):
        assert getattr(found, field) == getattr(published, field), field


def check_shapes(own):
    """The step can be traced, and the generator scores two places of each row."""
    (batch,) = fixtures.batches(own, 1)
    params = step.abstract_params(own)
    out = jax.eval_shape(forward_of(own), params, batch['electra'], jax.random.key(0))
    assert out['generator_logits'].shape == (16, 2, own.model.rows)
    means = jax.eval_shape(lambda p: step.gradients(own, step.model_of(own), p, batch, 0), params)
    assert means[0].shape == ()


@pytest.mark.parametrize(
    'changes',
    [
        dict(embed=48, heads=6, mlp=50),
        dict(heads=8, kv_heads=2),
        dict(head_size=8, positions=NoPositions()),
        dict(positions=Relative(), tied=False),
        dict(vocab_multiple=10),
        dict(embedding_size=8),
    ],
)
def test_generators_of_any_encoder_of_a_third_of_its_width(changes):
    plain = fixtures.experiment('mlm', model=dict(decoder_layers=0) | changes)
    streams = experiment(electra(width=1 / 3)).streams
    check_shapes(dataclasses.replace(plain, streams=streams))


def test_a_generator_may_go_with_an_encoder_and_a_decoder():
    check_shapes(dataclasses.replace(fixtures.experiment('span'), streams=experiment().streams))


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: electra(rate=1.5), r'electra: rate=1.5 must be in \[0, 1\]; try 0.15'),
        (lambda: electra(mask_share=-1), r'electra: mask_share=-1 must be in .*; try 0.85'),
        (lambda: electra(width=0.0), r'Generator: width=0.0 must be in \(0, 1\]; try 0.25'),
        (lambda: electra(width=2), 'Generator: width=2 must be in'),
        (
            lambda: experiment(electra(generator_weight=0, discriminator_weight=0)),
            'are 0, in electra',
        ),
        (lambda: electra().converter.check({'targets': 2}), "electra: .*'targets'.*=2 must be 4"),
        (lambda: electra().converter.check({'inputs': 9}), "electra: .* 'inputs'"),
        (
            lambda: dataclasses.replace(
                fixtures.experiment('clm', model=dict(encoder_layers=0)),
                streams=experiment().streams,
            ),
            'runs through the encoder, but the model has encoder_layers=0',
        ),
        (
            lambda: dataclasses.replace(
                experiment(),
                streams={
                    'a': experiment().streams['electra'],
                    'b': experiment(electra(width=0.5)).streams['electra'],
                },
            ),
            "named 'generator' have different heads",
        ),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_vocabulary_without_mask_is_refused(vocabulary):
    with pytest.raises(ConfigError, match='electra: .*no mask id'):
        ReplacedTokens().check({'targets': 8}, dataclasses.replace(vocabulary, mask=None))


def test_equal_settings_are_equal_objectives():
    assert electra() == electra(rate=0.15) != electra(rate=0.25)
    assert electra() != electra(width=0.5)


def test_a_row_depends_on_its_own_numbers_only(vocabulary):
    converter, lengths = ReplacedTokens(), {'targets': 16}
    documents = [list(range(6, 17))] * 4
    numbers = uniforms((0,), 0, 4, converter.draws(lengths))
    whole = rows_of(converter, vocabulary, documents, numbers, lengths)
    last = rows_of(converter, vocabulary, documents[3:], numbers[3:], lengths)
    for name, x in last.items():
        np.testing.assert_array_equal(x, whole[name][3:])
