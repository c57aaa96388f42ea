"""Ways to fine-tune: counts as published, factors by literal, unfreezing keeps every state."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import fixtures
import jax
import numpy as np
import pytest

from t5x_lite import config, frozen, printing, selector, sharding, step
from t5x_lite.checkpoint import Checkpointer
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Checkpoints
from t5x_lite.model import presets as models
from t5x_lite.optim import AdamW
from t5x_lite.schedules import SlantedTriangular
from t5x_lite.sharding import MeshShape
from t5x_lite.tuning import presets, summary
from t5x_lite.tuning.adapter_files import from_adapter
from t5x_lite.tuning.lora import Lora
from t5x_lite.tuning.prompt import Labels, Prompt
from t5x_lite.warm_start import from_hf

LAST_LAYER = dict(trainable=presets.LastLayers(1), rate_factors=presets.LayerDecay())
SMALL = dict(embed=16, mlp=32, heads=2, encoder_layers=2, decoder_layers=0)


def experiment(**fields):
    return fixtures.experiment('mlm', batch_size=8, model=SMALL, **fields)


def shapes(model) -> dict:
    from flax import nnx

    from t5x_lite.model import transformer

    state = nnx.state(jax.eval_shape(lambda: transformer.build(model)))
    return {path: x.shape for path, x in frozen.flat(nnx.to_pure_dict(state)).items()}


def test_bitfit_trains_a_thousandth_of_bert_base():
    """Ben Zaken et al. 2022: 0.1 M of 110 M, 12 layers of 8,448 and the embeddings' norm."""
    model = models.bert_base()
    rules = (presets.BitFit()(model)[0], ('.*', False))
    found = shapes(model)
    chosen = selector.choose(rules, found, 'x')
    count = sum(np.prod(found[path]) for path, value in chosen.items() if value is True)
    assert count == 12 * 8_448 + 768
    assert round(sum(np.prod(shape) for shape in found.values()) / 1e6) == 109  # no pooler


def factors(value, model):
    return selector.choose(value(model), shapes(model), 'x')


def test_electra_decay_by_literal():
    """d^(n+2-depth), depth 0 for embeddings, i + 1 for layer i (google-research/electra)."""
    model = experiment().model
    got = factors(presets.LayerDecay(decay=0.5), model)
    assert got['token_embedding/embedding'] == 0.5**4
    assert got['encoder/blocks/mlp/wide/kernel'] == (0.5**3, 0.5**2)
    assert got['encoder/norm/scale'] == 0.5**2


def test_discriminative_rates_fall_by_2_6_a_layer():
    got = factors(presets.discriminative(), experiment().model)
    assert got['encoder/blocks/mlp/wide/kernel'] == pytest.approx((2.6**-2, 2.6**-1))
    assert got['token_embedding/embedding'] == pytest.approx(2.6**-3)


def test_the_slanted_triangle_by_literal():
    """Howard & Ruder 2018, equation 3: cut 10 of 100, lr_max / ratio at both ends."""
    rate = SlantedTriangular(peak=0.32, steps=100)
    assert [float(rate(t)) for t in (0, 5, 10, 55, 100)] == pytest.approx(
        [0.01, 0.165, 0.32, 0.165, 0.01]
    )


def test_layers_that_the_model_lacks_are_refused():
    with pytest.raises(ConfigError, match='LastLayers: count=3 must be at most the 2 layers'):
        presets.LastLayers(3)(experiment().model)


def runner(one, devices=1):
    """A function (batches, state or None) -> the state after each batch."""
    mesh = sharding.make_mesh(one.mesh, jax.devices()[:devices])
    train_step, start = step.make_train_step(one, mesh), step.make_init(one, mesh)

    def run(batches, state=None):
        state = start() if state is None else jax.device_put(state)
        for batch in batches:
            placed = {name: sharding.put_batch(x, mesh) for name, x in batch.items()}
            state, _ = train_step(state, placed)
            yield jax.tree.map(np.asarray, state)

    return run


UNFREEZING = experiment(
    optimizer=AdamW(learning_rate=0.01, weight_decay=0.1, clip=1e9),
    steps=8,
    trainable=presets.GradualUnfreezing(every=2),
)


def test_unfreezing_keeps_what_learned_and_starts_the_rest_from_nothing():
    """Head at 0, layer 1 at 2, layer 0 at 4, embeddings at 6."""
    run, data = runner(UNFREEZING), fixtures.batches(UNFREEZING, 5)
    states = list(run(data))
    kernel = lambda s: s.params['encoder']['blocks']['mlp']['wide']['kernel']
    pairs = zip(states[:-1], states[1:], strict=True)
    moves = [(kernel(a) != kernel(b)).any((1, 2)).tolist() for a, b in pairs]
    assert moves == [[False, False], [False, True], [False, True], [True, True]]
    table = lambda s: s.params['token_embedding']['embedding']
    np.testing.assert_array_equal(table(states[0]), table(states[-1]))

    groups = states[4].opt_state.groups
    scalars = lambda group: {int(x) for x in jax.tree.leaves(group) if x.ndim == 0}
    counts = {name: scalars(group) for name, group in groups.items()}
    assert counts == {'0': {5}, '2': {3}, '4': {1}, '6': {0}}
    assert not any(x.any() for x in jax.tree.leaves(groups['6']))

    *_, again = run(data[3:], states[2])  # stopped in the middle
    jax.tree.map(np.testing.assert_array_equal, again, states[-1])


@pytest.mark.all
def test_groups_that_wait_change_nothing_of_those_that_learn():
    """The gradients of what waits are in no norm: the head learns as if it were alone."""
    optimizer = AdamW(learning_rate=0.01, weight_decay=0.1, clip=0.1)
    data = fixtures.batches(UNFREEZING, 2)
    heads = []
    for trainable in (presets.HeadOnly(), UNFREEZING.trainable):
        one = dataclasses.replace(UNFREEZING, optimizer=optimizer, trainable=trainable)
        *_, state = runner(one)(data)
        heads.append(state.params['heads'])
    jax.tree.map(np.testing.assert_array_equal, *heads)


@pytest.mark.parametrize(
    'fields, told',
    [
        ({}, ['trained: 5,552 of 5,552 parameters (100.00%)']),
        (
            dict(adapt=Lora(rank=2, heads=False)),
            ['trained: 256 of 5,808 parameters', '  encoder/blocks/attention/query/adapter: 128'],
        ),
        (dict(trainable=presets.GradualUnfreezing(every=2)), ['  from step 6 on: 1,024']),
    ],
)
def test_a_run_says_what_learns(fields, told):
    found = list(summary.learned(experiment(**fields)))
    assert bool(found) == bool(told)
    for line in told:
        assert any(x.startswith(line) for x in found), found


@pytest.mark.parametrize(
    'name, value',
    [
        ('trainable', (('bias$', True), ('blocks/1/', 3), ('.*', False))),
        ('trainable', presets.LastLayers(1)),
        ('trainable', presets.GradualUnfreezing(every=2)),
        ('rate_factors', presets.LayerDecay(decay=0.9)),
        ('adapt', Lora(rank=2)),
        ('adapt', Prompt(length=2, init=Labels(((9, 10), (11,))))),
        ('init', from_adapter('adapter', base=from_hf('base'))),
    ],
)
def test_what_is_printed_makes_the_same_experiment(name, value):
    one = experiment(**{name: value})
    space = {}
    exec(printing.source(one), space)
    assert space['experiment'] == one


GIN = """
from __gin__ import dynamic_registration
from t5x_lite import experiment
from t5x_lite.tuning import lora
from t5x_lite.tuning import presets as tuning

include 'runs/mlm_mini.gin'
experiment.Experiment.adapt = @lora.Lora()
lora.Lora.rank = 4
experiment.Experiment.rate_factors = @tuning.LayerDecay()
experiment.Experiment.trainable = (('blocks/[23]/.*adapter', True), ('heads', 5), ('.*', False))
"""


def test_gin_makes_them_too(tmp_path):
    (tmp_path / 'run.gin').write_text(GIN)
    one = config.load(tmp_path / 'run.gin').experiment
    assert one.adapt == Lora(rank=4) and one.rate_factors == presets.LayerDecay()
    assert one.trainable == (('blocks/[23]/.*adapter', True), ('heads', 5), ('.*', False))


@pytest.mark.all
@pytest.mark.parametrize(
    'fields',
    [
        dict(adapt=Lora(rank=2)),
        dict(trainable=(('blocks/1/.*kernel|heads', True), ('blocks/0/mlp', 1), ('.*', False))),
    ],
)
def test_a_mesh_changes_no_number_of_what_learns_in_part(fields):
    one = experiment(optimizer=AdamW(learning_rate=1e-3, clip=1.0), **fields)
    many = dataclasses.replace(one, mesh=MeshShape(data=2, fsdp=2, model=2))
    data = fixtures.batches(one, 3)
    *_, alone = runner(one)(data)
    *_, spread = runner(many, devices=8)(data)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)
    jax.tree.map(close, alone.params, spread.params)


@pytest.mark.one
@pytest.mark.parametrize('fields', [dict(trainable=presets.GradualUnfreezing(every=2)), LAST_LAYER])
def test_a_checkpoint_brings_back_the_state_of_what_learns_in_part(fields, tmp_path):
    one = experiment(**fields)
    mesh = sharding.make_mesh(one.mesh, jax.devices()[:1])
    start = step.make_init(one, mesh)()
    count = iter(range(1, 10_000))
    state = jax.tree.map(lambda x: x + next(count), start)  # each array another
    checkpoints = Checkpointer(tmp_path / 'checkpoints', Checkpoints())
    position = {'mlm': {'skip': 0, 'shards': {0: {'x': np.int64(0)}}}}
    checkpoints.save(5, state, position, {}, {})
    checkpoints.wait()
    number, found, *_ = checkpoints.restore(step.abstract_state(one, mesh))
    checkpoints.close()
    assert number == 5
    jax.tree.map(np.testing.assert_array_equal, found, state)
