"""Distillation: its equations, a teacher that stays as it is, and what is refused."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import fixtures
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import beginning, sharding, step
from t5x_lite.checkpoint import write_params
from t5x_lite.data.loader import ShardBatches
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Stream
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.heads import MaskedLMHead
from t5x_lite.model.positions import Learned
from t5x_lite.objectives.classification import classification
from t5x_lite.objectives.contrastive import simcse
from t5x_lite.objectives.distillation import HiddenLoss, Teacher, distilled, divergence
from t5x_lite.objectives.mlm import mlm
from t5x_lite.objectives.pairs import dual_encoder
from t5x_lite.objectives.prefix_lm import prefix_seq2seq
from t5x_lite.objectives.remembered_teacher import remembered_teacher
from t5x_lite.objectives.replaced_tokens import electra
from t5x_lite.objectives.sentence_pairs import bert
from t5x_lite.objectives.similarity import pool_mean
from t5x_lite.warm_start import from_checkpoint

SIZES = dict(vocab=64, heads=4, mlp=64, encoder_layers=1)
HEADS = {'mlm': MaskedLMHead()}


def teacher(path='no run', embed=48, **changes):
    model = ModelConfig(**SIZES | dict(embed=embed) | changes)
    return Teacher(model=model, heads=HEADS, init=from_checkpoint(str(path)))


def experiment(objective, **changes):
    plain = fixtures.experiment('mlm', model=dict(encoder_layers=1, decoder_layers=0, **changes))
    stream = dataclasses.replace(plain.streams['mlm'], objective=objective)
    return dataclasses.replace(plain, streams={'mlm': stream})


@pytest.fixture(scope='module')
def run_of_a_teacher(tmp_path_factory):
    """A run's folder with a trained, wider masked LM."""
    folder = tmp_path_factory.mktemp('teacher')
    own = experiment(mlm(), embed=48)
    write_params(folder / 'checkpoints', step.init_state(own).params)
    return folder


def test_divergence_is_its_equation_and_0_for_equal_scores():
    rng = np.random.default_rng(0)
    p, q = (rng.normal(size=(2, 3, 5)).astype(np.float32) for _ in range(2))
    soft = lambda x: np.exp(x / 3.0) / np.exp(x / 3.0).sum(-1, keepdims=True)
    expected = 9.0 * (soft(p) * np.log(soft(p) / soft(q))).sum(-1)
    np.testing.assert_allclose(divergence(p, q, 3.0), expected, rtol=1e-5)
    np.testing.assert_allclose(divergence(p, p, 3.0), 0.0, atol=1e-6)


def test_hidden_losses_are_means_over_tokens_that_are_no_padding():
    ours = jnp.array([[[1.0, 0.0], [3.0, 4.0], [9.0, 9.0]]])
    theirs = jnp.array([[[2.0, 0.0], [4.0, -3.0], [0.0, 0.0]]])
    outputs = {'encoder_hidden': ours, 'teacher/encoder_hidden': theirs}
    batch = {'encoder_segment_ids': jnp.array([[1, 1, 0]])}
    cosine = HiddenLoss(stack='encoder', cosine=True)(None, None, outputs, batch)['loss']
    assert (float(cosine.total), float(cosine.count)) == (pytest.approx(0.0 + 1.0), 2.0)
    square = HiddenLoss(stack='encoder', cosine=False)(None, None, outputs, batch)['loss']
    assert (float(square.total), float(square.count)) == (pytest.approx(0.5 + 25.0), 2.0)


def start(own):
    """A mesh, and the state a run starts from: the teacher's weights from its folder."""
    mesh = sharding.make_mesh(own.mesh, jax.devices()[:1])
    weights = beginning.open_init(own)
    return mesh, step.start_from(own, mesh, weights)


def test_the_teacher_has_its_weights_no_optimizer_state_and_does_not_move(run_of_a_teacher):
    objective = distilled(
        objective=mlm(weight=0.01),
        teacher=teacher(run_of_a_teacher),
        logits=5.0,
        cosine=1.0,
        project=True,
    )
    own = experiment(objective, dropout=0.1)
    mesh, state = start(own)
    saved = step.init_state(experiment(mlm(), embed=48)).params
    before = jax.device_get(state.params['heads']['teacher'])
    jax.tree.map(np.testing.assert_array_equal, before, saved)
    slots = [str(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)]
    assert slots and not any('teacher' in path for path in slots)
    train_step, values = step.make_train_step(own, mesh), []
    (batch,) = fixtures.batches(own, 1)
    for _ in range(60):
        state, means = train_step(state, batch)
        values.append({name: float(mean.value) for name, mean in jax.device_get(means).items()})
    after = jax.device_get(state.params['heads']['teacher'])
    jax.tree.map(np.testing.assert_array_equal, before, after)
    for name in ('mlm/distill_logits/loss', 'mlm/distill_cosine/loss'):
        assert values[-1][name] < 0.5 * values[0][name], name
    parts = {'mlm/mlm': 0.01, 'mlm/distill_logits': 5.0, 'mlm/distill_cosine': 1.0}
    total = sum(weight * values[0][f'{name}/loss'] for name, weight in parts.items())
    assert values[0]['loss'] == pytest.approx(total, rel=1e-5)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(run_of_a_teacher):
    objective = distilled(
        objective=mlm(), teacher=teacher(run_of_a_teacher), logits=1.0, hidden=1.0, cosine=1.0
    )
    own = experiment(objective, embed=48)
    _, state = start(own)
    taught = state.params['heads']['teacher']
    params = {**taught, 'heads': {**taught['heads'], 'teacher': taught}}
    (batch,) = fixtures.batches(own, 1)
    means = step.batch_means(own, step.model_of(own)(params), batch)
    for name in ('logits', 'hidden', 'cosine'):
        assert abs(float(means[f'mlm/distill_{name}/loss'].value)) < 1e-5
    assert float(means['mlm/mlm/loss'].value) > 1.0


def test_a_classifier_learns_the_teachers_scores_of_classes():
    plain = classification(labels=3, pool=pool_mean)
    (head,) = (term.head for term in plain.terms.values())
    own = Teacher(model=teacher().model, heads={'classifier': head}, init=None)
    objective = distilled(objective=plain, teacher=own, temperature=3.0)
    assert objective.terms['distill_logits'].weight == 0.5
    stream = Stream(mixture='none', objective=objective, lengths={'inputs': 16}, batch_size=16)
    run = dataclasses.replace(experiment(mlm()), streams={'s': stream})
    rng, shape = np.random.default_rng(0), (16, 16)
    batch = {
        'encoder_input_tokens': rng.integers(7, 60, shape),
        'encoder_segment_ids': (np.arange(16) < rng.integers(3, 16, (16, 1))).astype(int),
        'encoder_positions': np.broadcast_to(np.arange(16), shape),
        'class_labels': rng.integers(0, 3, 16),
        'class_weights': (np.arange(16) < 10).astype(np.float32),
    }
    params = jax.tree.map(lambda x: 3 * x, step.init_state(run).params)
    model = step.model_of(run)(params)
    means = step.batch_means(run, model, {'s': batch})
    scores = {}
    for name, one in (('student', model), ('teacher', model.heads['teacher'])):
        hidden = one.encode(batch['encoder_input_tokens'], segments=batch['encoder_segment_ids'])
        scores[name] = one.heads['classifier'](pool_mean(hidden, batch['encoder_segment_ids'] > 0))
    expected = divergence(scores['teacher'], scores['student'], 3.0)[:10].mean()
    assert float(means['s/distill_logits/loss'].value) == pytest.approx(float(expected), rel=1e-4)
    assert float(expected) > 0.01 and float(means['s/distill_logits/loss'].count) == 10


@pytest.mark.all
def test_a_mesh_and_microbatches_change_no_loss(run_of_a_teacher):
    objective = distilled(
        objective=mlm(), teacher=teacher(run_of_a_teacher), hidden=1.0, project=True
    )
    values = []
    for changes in (dict(), dict(microbatches=2, mesh=sharding.MeshShape(data=2, fsdp=2))):
        own = dataclasses.replace(experiment(objective), **changes)
        mesh = sharding.make_mesh(own.mesh, jax.devices()[: 4 if changes else 1])
        weights = beginning.open_init(own)
        state = step.start_from(own, mesh, weights)
        batches = sharding.put_batch(fixtures.batches(own, 1)[0]['mlm'], mesh)
        _, means = step.make_train_step(own, mesh)(state, {'mlm': batches})
        values.append({k: float(m.value) for k, m in jax.device_get(means).items() if 'loss' in k})
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_terms_go_with_an_encoder_and_decoder_and_with_sentence_vectors():
    both = Teacher(
        model=ModelConfig(**SIZES, embed=32, decoder_layers=1), init=from_checkpoint('x')
    )
    pair = distilled(objective=prefix_seq2seq(), teacher=both)
    assert pair.terms['distill_logits'].loss.stack == 'decoder'
    vectors = distilled(objective=simcse(), teacher=teacher(embed=32), logits=0, cosine=1.0)
    assert set(vectors.terms) == {'simcse', 'distill_cosine'}
    assert vectors.forward.needs_dropout


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: distilled(objective=mlm(), teacher=teacher(), logits=0), 'teach nothing'),
        (
            lambda: distilled(objective=simcse(), teacher=teacher()),
            'terms simcse scores tokens or classes',
        ),
        (
            lambda: distilled(objective=mlm(head=None), teacher=teacher()),
            "term 'mlm' has the head None, but the teacher MaskedLMHead",
        ),
        (
            lambda: distilled(objective=mlm(), teacher=teacher(), temperature=0.0),
            'temperature=0.0 must be above 0',
        ),
        (
            lambda: experiment(distilled(objective=mlm(), teacher=teacher(vocab=80))),
            'model.vocab=80 must be that of the student, 64',
        ),
        (
            lambda: experiment(distilled(objective=mlm(), teacher=teacher(), hidden=1.0)),
            'embed=48.*embed=32.*project=True',
        ),
        (
            lambda: distilled(objective=electra(), teacher=teacher(), logits=0, hidden=1.0),
            'runs through a generator of its own, which no teacher has',
        ),
        (
            lambda: distilled(objective=dual_encoder(), teacher=teacher(), logits=0, hidden=1.0),
            "term 'dual_encoder' compares left_encoder_hidden.* encoder_hidden is not known",
        ),
        (
            lambda: distilled(
                objective=distilled(objective=mlm(), teacher=teacher()), teacher=teacher()
            ),
            'runs through a teacher of its own',
        ),
        (
            lambda: experiment(
                distilled(objective=mlm(), teacher=teacher(positions=Learned(length=8)))
            ),
            'encoder_input_tokens has length 16, but teacher.model.positions knows 8',
        ),
        (
            lambda: dataclasses.replace(
                fixtures.experiment('mlm', model=dict(types=2)),
                streams={
                    'bert': Stream(
                        mixture='none',
                        objective=distilled(objective=bert(), teacher=teacher()),
                        lengths={'targets': 16},
                        batch_size=16,
                    )
                },
            ),
            'teacher.model.types=0 cannot tell the first from the second',
        ),
    ],
)
def test_what_cannot_teach_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_teacher_without_all_of_its_weights_is_refused(run_of_a_teacher):
    deep = teacher(run_of_a_teacher, types=2)
    with pytest.raises(ConfigError, match="teacher 'teacher': its source lacks encoder/types"):
        beginning.open_init(experiment(distilled(objective=mlm(), teacher=deep)))


def test_a_teacher_without_a_source_is_drawn_beside_weights_that_are_read(run_of_a_teacher):
    drawn = dataclasses.replace(teacher(), init=None)
    own = experiment(distilled(objective=mlm(), teacher=drawn), embed=48)
    assert beginning.open_init(own) is None
    warm = dataclasses.replace(own, init=from_checkpoint(str(run_of_a_teacher)))
    opened = beginning.open_init(warm)
    assert opened.fresh and all(path.startswith('heads/teacher/') for path in opened.fresh)


def test_teachers_and_the_way_to_them_are_parts_of_training_alone():
    own = experiment(distilled(objective=mlm(), teacher=teacher(), hidden=1.0, project=True))
    assert sorted(own.heads) == ['distill_hidden', 'mlm', 'teacher']
    assert own.parts == ('teacher', 'distill_hidden')


def remembered(count=6, top=64):
    """Documents with a teacher's logits of all 64 ids for each token and EOS."""
    rng = np.random.default_rng(0)
    for document in fixtures.documents(count=count):
        shape = (len(document['targets']) + 1, 64)
        ids = np.argsort(rng.random(shape), axis=1).astype(np.int32)[:, :top]
        logits = rng.normal(size=(shape[0], top)).astype(np.float32)
        yield {**document, 'teacher_ids': ids, 'teacher_logits': logits}


def test_remembered_scores_of_all_ids_give_the_loss_of_a_live_teacher():
    objective, lengths = remembered_teacher(top=64, temperature=2.0), {'targets': 24}
    rows = ShardBatches(
        remembered(), objective.converter, lengths, fixtures.vocabulary(), rows=8, seed=(0,)
    )
    batch = next(rows)
    experiment = fixtures.experiment('clm', model=dict(encoder_layers=0))
    model = step.model_of(experiment)(step.init_state(experiment).params)
    found = objective.means(model, batch)['distill_logits']['loss']
    shape = batch['decoder_teacher_logits'].shape
    whole = np.zeros(shape, np.float32)
    np.put_along_axis(whole, batch['decoder_teacher_ids'], batch['decoder_teacher_logits'], -1)
    ours = model.logits(objective.forward(model, batch)['decoder_hidden'])
    expected = divergence(whole, ours, 2.0) * batch['decoder_loss_weights']
    assert float(found.total) == pytest.approx(float(expected.sum()), rel=1e-5)


def test_remembered_scores_stay_beside_their_tokens_across_rows_and_positions():
    converter, lengths = remembered_teacher(top=2).converter, {'targets': 8}
    vocabulary = fixtures.vocabulary()
    texts = list(remembered(top=2))
    for text in texts:  # each target's own id is what is remembered first
        text['teacher_ids'][:, 0] = np.append(text['targets'], vocabulary.eos)
    cutter = converter.cutter(lengths, vocabulary)
    for text in texts[:3]:
        cutter.add(text)
    cutter.take(2)
    again = converter.cutter(lengths, vocabulary)
    again.restore(cutter.state())
    for one in (cutter, again):
        for text in texts[3:]:
            one.add(text)
    made = [converter.batch(c.take(c.ready()), lengths, vocabulary, None) for c in (cutter, again)]
    for name, array in made[0].items():
        np.testing.assert_array_equal(array, made[1][name])
    ids = made[0]['decoder_teacher_ids'][..., 0]
    np.testing.assert_array_equal(ids, made[0]['decoder_target_tokens'])


def test_remembered_scores_of_another_shape_are_refused():
    cutter = remembered_teacher(top=3).converter.cutter({'targets': 8}, fixtures.vocabulary())
    with pytest.raises(ConfigError, match=r'teacher_ids of an example has shape .*top=3 need'):
        cutter.add(next(remembered(top=2)))
    empty = {name: np.zeros((0, 3), np.int32) for name in ('teacher_ids', 'teacher_logits')}
    cutter.add({'targets': np.zeros(0, np.int32), **empty})
    assert (cutter.ready(), cutter.dropped) == (0, 1)
    with pytest.raises(ConfigError, match='top=0 must be'):
        remembered_teacher(top=0)
