"""Warm starts: weights of another run by their paths; what does not fit is said before memory."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import fixtures
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from t5x_lite import beginning, checkpoint, printing, sharding, step
from t5x_lite.checkpoint import Checkpointer
from t5x_lite.errors import ConfigError, RunError
from t5x_lite.experiment import Checkpoints
from t5x_lite.progress import Reporter
from t5x_lite.warm_start import from_checkpoint, from_hf


@pytest.fixture(scope='module')
def earlier(tmp_path_factory):
    """A run's folder and its parameters: masked LM on another seed."""
    folder = tmp_path_factory.mktemp('earlier')
    params = step.init_state(fixtures.experiment('mlm', seed=7)).params
    checkpoint.write_params(folder / 'checkpoints', params)
    return folder, flatten_dict(params, sep='/')


def started(experiment, folder):
    """The first state of a run in that folder, as training makes it."""
    mesh = sharding.make_mesh(experiment.mesh, jax.devices()[:1])
    checkpoints = Checkpointer(folder / 'checkpoints', Checkpoints())
    weights = beginning.open_init(experiment) if checkpoints.empty() else None
    reporter = Reporter(experiment.steps)
    state, *_ = beginning.restore_or_init(experiment, mesh, checkpoints, reporter, weights)
    reporter.close()
    return state, checkpoints


def test_a_fresh_run_begins_with_the_other_runs_weights_and_a_fresh_head(earlier, tmp_path, capsys):
    folder, params = earlier
    experiment = fixtures.experiment('simcse', model=dict(dropout=0.1))
    experiment = dataclasses.replace(experiment, init=from_checkpoint(str(folder)))
    mesh = sharding.make_mesh(experiment.mesh, jax.devices()[:1])
    fresh = flatten_dict(step.make_init(experiment, mesh)().params, sep='/')
    state, checkpoints = started(experiment, tmp_path)
    checkpoints.close()
    for path, array in flatten_dict(state.params, sep='/').items():
        expected = fresh if path.startswith('heads/simcse') else params
        np.testing.assert_array_equal(array, expected[path], err_msg=path)
    told = capsys.readouterr()
    told = told.out + told.err
    assert 'new: heads/simcse/dense/kernel [32, 32]' in told
    assert 'left out: heads/mlm/dense/kernel' in told


def test_a_run_that_goes_on_does_not_ask_for_the_weights_it_began_with(earlier, tmp_path):
    folder, _ = earlier
    experiment = fixtures.experiment('mlm', init=from_checkpoint(str(folder)))
    state, checkpoints = started(experiment, tmp_path)
    moved = jax.tree.map(lambda x: x + 1, state)
    checkpoints.save(1, moved, {'mlm': {'shards': {}, 'skip': 0}}, {}, {})
    checkpoints.close()
    gone = dataclasses.replace(experiment, init=from_checkpoint(str(tmp_path / 'gone')))
    again, checkpoints = started(gone, tmp_path)
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, again, moved)
    with pytest.raises(RunError, match='there are no checkpoints'):
        beginning.open_init(gone)


def test_optimizer_state_begins_with_the_loaded_weights(earlier, tmp_path):
    folder, _ = earlier
    experiment = fixtures.experiment('mlm', init=from_checkpoint(str(folder)))
    state, checkpoints = started(experiment, tmp_path)
    checkpoints.close()
    expected = experiment.optimizer.build().init(state.params)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, expected)


def test_renamed_paths_find_their_place(tmp_path):
    params = flatten_dict(step.init_state(fixtures.experiment('mlm', seed=7)).params, sep='/')
    old = {path.replace('heads/mlm/', 'heads/old/'): x for path, x in params.items()}
    checkpoint.write_params(tmp_path / 'checkpoints', unflatten_dict(old, sep='/'))
    shapes = {path: x.shape for path, x in params.items()}
    init = from_checkpoint(str(tmp_path), rename=((r'^heads/old/', 'heads/mlm/'),))
    opened = init.open(fixtures.experiment('mlm').model, {}, shapes)
    assert 'new' not in opened.told and 'left out' not in opened.told
    for path, array in opened.load(params).items():
        np.testing.assert_array_equal(array, params[path])


def test_another_size_is_named_with_both_shapes(earlier):
    folder, _ = earlier
    experiment = fixtures.experiment('mlm', model=dict(mlp=48), init=from_checkpoint(str(folder)))
    message = r'has decoder/blocks/mlp/out/kernel \[2, 64, 32\], but the model has .* \[2, 48, 32\]'
    with pytest.raises(ConfigError, match=message):
        beginning.open_init(experiment)


def test_a_wrong_rename_is_refused_when_it_is_written():
    with pytest.raises(ConfigError, match='no regular expression'):
        from_checkpoint('run', rename=(('(', ''),))
    with pytest.raises(ConfigError, match=r'each must be \(pattern, replacement\)'):
        from_checkpoint('run', rename=(('a', 'b', 'c'),))


def test_an_experiment_prints_what_it_begins_with():
    init = from_checkpoint('runs/mlm', rename=(('a', 'b'),))
    experiment = fixtures.experiment('mlm', init=init)
    names = {}
    exec(printing.source(experiment), names)
    assert names['experiment'].init == init
    again = fixtures.experiment('mlm', init=from_hf('files'))
    exec(printing.source(again), names)
    assert names['experiment'].init == from_hf('files')


@pytest.mark.one
@pytest.mark.parametrize('vocab', [96, 48])
def test_a_vocabulary_of_another_size_keeps_the_rows_of_its_ids(earlier, tmp_path, capsys, vocab):
    folder, params = earlier
    init = from_checkpoint(str(folder), resize_vocab=True)
    experiment = fixtures.experiment('mlm', model=dict(vocab=vocab), init=init)
    mesh = sharding.make_mesh(experiment.mesh, jax.devices()[:1])
    fresh = flatten_dict(step.make_init(experiment, mesh)().params, sep='/')
    state, checkpoints = started(experiment, tmp_path)
    checkpoints.close()
    kept = min(vocab, 64)
    for path, array in flatten_dict(state.params, sep='/').items():
        if path not in ('token_embedding/embedding', 'heads/mlm/bias'):
            np.testing.assert_array_equal(array, params[path], err_msg=path)
            continue
        np.testing.assert_array_equal(array[:kept], params[path][:kept], err_msg=path)
        np.testing.assert_array_equal(array[kept:], fresh[path][kept:], err_msg=path)
        assert len(array) == vocab
    told = capsys.readouterr()
    told = told.out + told.err
    assert f'resized: token_embedding/embedding, 64 of the vocabulary before, {vocab} now' in told


def test_without_resize_vocab_another_vocabulary_is_refused_and_the_way_named(earlier, tmp_path):
    init = from_checkpoint(str(earlier[0]))
    experiment = fixtures.experiment('mlm', model=dict(vocab=96), init=init)
    with pytest.raises(ConfigError, match='resize_vocab=True takes over a vocabulary of another'):
        started(experiment, tmp_path)


def test_resize_vocab_forgives_no_other_size(earlier, tmp_path):
    init = from_checkpoint(str(earlier[0]), resize_vocab=True)
    experiment = fixtures.experiment('mlm', model=dict(mlp=128), init=init)
    with pytest.raises(ConfigError, match='mlp.*give it the same sizes'):
        started(experiment, tmp_path)


def test_a_vocabulary_is_resized_on_a_mesh_too(earlier, tmp_path):
    init = from_checkpoint(str(earlier[0]), resize_vocab=True)
    one = fixtures.experiment('mlm', model=dict(vocab=96), init=init)
    many = dataclasses.replace(one, mesh=sharding.MeshShape(fsdp=4, model=2))
    weights = beginning.open_init(one)
    states = [
        step.start_from(e, sharding.make_mesh(e.mesh, jax.devices()[:n]), weights)
        for e, n in ((one, 1), (many, 8))
    ]
    jax.tree.map(np.testing.assert_array_equal, states[0].params, states[1].params)
