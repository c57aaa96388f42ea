"""Checkpoints: saved whole, kept as planned, and never lost to a damaged one."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.checkpoint import Checkpointer, DataArgs, DataHandler
from t5x_lite.errors import RunError
from t5x_lite.experiment import Checkpoints

SHAPE = (64, 50)


def state(value: float, shape=SHAPE):
    return {'params': {'w': jnp.full(shape, value)}, 'step': jnp.int32(value)}


def like(shape=SHAPE):
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    place = lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where)
    return jax.tree.map(place, jax.eval_shape(lambda: state(0, shape)))


def position(step: int):
    return {'clm': {'skip': step, 'shards': {0: {'source/a': np.arange(step, dtype=np.uint8)}}}}


def save_all(folder, steps, plan=None, metrics=None):
    checkpoints = Checkpointer(folder, plan or Checkpoints(keep=10))
    for step in steps:
        values = (metrics or {}).get(step, {})
        checkpoints.save(step, state(step), position(step), {'loss': [step / 3, 2.0]}, values)
    checkpoints.close()


def restore(folder):
    checkpoints = Checkpointer(folder, Checkpoints(keep=10))
    with contextlib.closing(checkpoints):
        return checkpoints.restore(like())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def cut_largest_array(step_folder):
    files = [path for path in (step_folder / 'state').rglob('d/*') if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    with open(largest, 'r+b') as file:
        file.truncate(largest.stat().st_size // 2)


def make_empty(step_folder):
    shutil.rmtree(step_folder)
    step_folder.mkdir()


DAMAGES = {
    'a cut array': cut_largest_array,
    'an empty folder': make_empty,
    'no position of the data': lambda folder: shutil.rmtree(folder / 'data'),
    'a cut position of the data': lambda f: (f / 'data/host_0.npz').write_bytes(b'PK\3\4'),
    'no host has a position': lambda folder: (folder / 'data/host_0.npz').unlink(),
}


def test_restore_gives_exactly_what_was_saved(tmp_path):
    save_all(tmp_path, [1, 2, 5])
    step, restored, data, window = restore(tmp_path)
    assert step == 5 and int(restored['step']) == 5
    np.testing.assert_array_equal(restored['params']['w'], np.full(SHAPE, 5, np.float32))
    assert data['clm']['skip'] == 5 and list(data['clm']['shards']) == [0]
    np.testing.assert_array_equal(data['clm']['shards'][0]['source/a'], np.arange(5))
    assert window == {'loss': [5 / 3, 2.0]}


def test_empty_folder_has_nothing_to_restore(tmp_path):
    assert restore(tmp_path) is None


def test_save_keeps_the_state_of_its_step_while_training_overwrites_it(tmp_path):
    checkpoints = Checkpointer(tmp_path, Checkpoints())
    add = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    current = state(1)
    checkpoints.save(1, current, position(1), {}, {})
    for _ in range(20):
        current = add(current)
    jax.block_until_ready(current)
    checkpoints.close()
    np.testing.assert_array_equal(restore(tmp_path)[1]['params']['w'], np.ones(SHAPE, np.float32))


@pytest.mark.parametrize('damage', DAMAGES)
def test_damaged_newest_is_set_aside_with_a_warning_and_the_one_before_taken(
    tmp_path, caplog, damage
):
    save_all(tmp_path, [10, 20])
    DAMAGES[damage](tmp_path / '20')
    assert restore(tmp_path)[0] == 10
    assert names(tmp_path) == ['10', 'damaged-20']
    assert f'{tmp_path / "20"} cannot be read' in caplog.text
    assert 'falling back to step 10' in caplog.text


def test_step_damaged_a_second_time_is_set_aside_too(tmp_path):
    save_all(tmp_path, [10, 20])
    for _ in range(2):
        make_empty(tmp_path / '20') if (tmp_path / '20').exists() else (tmp_path / '20').mkdir()
        assert restore(tmp_path)[0] == 10
    assert names(tmp_path) == ['10', 'damaged-20', 'damaged-20-again']


def test_step_saved_again_after_it_was_damaged_is_whole(tmp_path):
    save_all(tmp_path, [10, 20])
    cut_largest_array(tmp_path / '20')
    checkpoints = Checkpointer(tmp_path, Checkpoints(keep=10))
    assert checkpoints.restore(like())[0] == 10
    checkpoints.save(20, state(20), position(20), {}, {})
    checkpoints.close()
    assert restore(tmp_path)[0] == 20


def test_nothing_is_renamed_or_deleted_where_no_checkpoint_can_be_read(tmp_path):
    save_all(tmp_path, [10, 20])
    for step in ('10', '20'):
        cut_largest_array(tmp_path / step)
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(RunError, match=r'no checkpoint can be read \(step 20: .*; step 10: '):
        restore(tmp_path)
    assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize(
    ('plan', 'kept'),
    [
        (Checkpoints(keep=2), [6, 7]),
        (Checkpoints(keep=1, keep_every=3), [3, 6, 7]),
        (Checkpoints(keep=1, best='eval/loss'), [2, 7]),
        (Checkpoints(keep=1, best='eval/loss', highest=True), [4, 7]),
        (Checkpoints(keep=2, keep_every=5, best='eval/loss'), [2, 5, 6, 7]),
        (Checkpoints(keep=1, best='eval/loss', keep_best=2), [2, 6, 7]),
    ],
)
def test_latest_every_n_and_best_checkpoints_are_kept(tmp_path, plan, kept):
    losses = {2: 1.0, 4: 3.0, 6: 2.0}  # the steps that were evaluated
    save_all(tmp_path, range(1, 8), plan, {i: {'eval/loss': x} for i, x in losses.items()})
    assert names(tmp_path) == [str(step) for step in kept]


def test_best_stays_the_best_when_the_run_is_started_again(tmp_path):
    plan = Checkpoints(keep=1, best='eval/loss')
    save_all(tmp_path, [1, 2], plan, {1: {'eval/loss': 1.0}, 2: {'eval/loss': 2.0}})
    save_all(tmp_path, [3, 4], plan, {3: {'eval/loss': 1.5}, 4: {'eval/loss': 3.0}})
    assert names(tmp_path) == ['1', '4']


def test_positions_are_restored_from_the_files_of_all_hosts(tmp_path, monkeypatch):
    handler = DataHandler()
    for host in range(2):
        monkeypatch.setattr(jax, 'process_index', lambda host=host: host)
        shards = {
            i: {'row': np.int64(i), 'source/x|y': np.arange(i)} for i in (2 * host, 2 * host + 1)
        }
        handler.save(tmp_path, DataArgs({'clm': {'skip': 3, 'shards': shards}}))
    state = handler.restore(tmp_path)['clm']
    assert state['skip'] == 3 and sorted(state['shards']) == [0, 1, 2, 3]
    for i, shard in state['shards'].items():
        assert shard['row'] == i
        np.testing.assert_array_equal(shard['source/x|y'], np.arange(i))


@contextlib.contextmanager
def files_up_to(size: int):
    """Writing past `size` bytes fails in this process as it does on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_full_disk_is_named_and_what_was_saved_stays(tmp_path):
    noise = lambda: {'params': {'w': jax.random.normal(jax.random.key(0), (1000, 500))}}
    checkpoints = Checkpointer(tmp_path, Checkpoints(keep=10))
    checkpoints.save(1, noise(), position(1), {}, {})
    checkpoints.wait()
    message = rf'saving to {tmp_path} failed: .*; saved steps \[1\] are whole; make room'
    with files_up_to(500_000), pytest.raises(RunError, match=message):
        checkpoints.save(2, noise(), position(2), {}, {})
        checkpoints.wait()
    after = Checkpointer(tmp_path, Checkpoints(keep=10))
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shape = jax.ShapeDtypeStruct((1000, 500), jnp.float32, sharding=where)
    with contextlib.closing(after):
        step, restored, *_ = after.restore({'params': {'w': shape}})
    assert step == 1
    np.testing.assert_array_equal(restored['params']['w'], noise()['params']['w'])
