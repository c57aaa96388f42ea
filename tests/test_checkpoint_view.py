"""`ckpt ls`, `show`, `diff`: what is there, its numbers, and in what two checkpoints differ."""
# SPDX-License-Identifier: Apache-2.0

import jax
import numpy as np
import pytest

from t5x_lite import checkpoint_view, sharding
from t5x_lite.checkpoint import Checkpointer
from t5x_lite.errors import ConfigError, RunError
from t5x_lite.experiment import Checkpoints


def params(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    return {'encoder': {'kernel': draw(8, 16), 'scale': np.ones(16, np.float32)}}


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Two runs of two steps, written by eight devices; the second has another shape and name."""
    root, mesh = tmp_path_factory.mktemp('runs'), sharding.make_mesh(sharding.MeshShape(fsdp=8))
    split = jax.NamedSharding(mesh, jax.P('fsdp'))
    for name in ('a', 'b'):
        saver = Checkpointer(root / name / 'checkpoints', Checkpoints(keep=3))
        for step in (1, 20):
            own = params(step)
            if name == 'b':
                own['encoder'] |= {'scale': np.ones(8, np.float32), 'bias': np.zeros(8, np.float32)}
            saver.save(step, {'params': jax.device_put(own, split)}, {}, {}, {})
            saver.wait()
        saver.close()
    return root


def test_ls_has_a_line_for_each_step_and_tells_what_is_not_whole(runs):
    (runs / 'a/checkpoints/damaged-7').mkdir()
    lines = list(checkpoint_view.listed(runs / 'a'))
    assert [line.split()[0] for line in lines] == ['1', '20', 'damaged-7']
    assert lines[2].endswith('(not whole, never read)') and ' MB' in lines[0]


def test_show_has_shapes_types_and_norms_of_a_step(runs):
    lines = list(checkpoint_view.shown(runs / 'a', 1))
    assert lines[0].endswith('step 1') and lines[-1] == 'parameters: 144'
    norm = np.linalg.norm(params(1)['encoder']['kernel'])
    assert lines[1].split()[:6] == ['encoder/kernel', '8', 'x', '16', 'float32', 'norm']
    assert float(lines[1].split()[6]) == pytest.approx(norm, rel=1e-5)
    assert list(checkpoint_view.shown(runs / 'a'))[0].endswith('step 20')


def test_diff_names_paths_shapes_and_values(runs):
    same = list(checkpoint_view.difference(runs / 'a', runs / 'a@20'))
    assert same[-1] == 'bit-equal: 2 arrays' and len(same) == 3
    steps = list(checkpoint_view.difference(runs / 'a@1', runs / 'a@20'))
    far = np.abs(params(1)['encoder']['kernel'] - params(20)['encoder']['kernel']).max()
    assert steps[2].startswith(f'values: encoder/kernel  largest difference {far:.4g}')
    assert steps[3] == 'bit-equal: 1 arrays'
    other = '\n'.join(checkpoint_view.difference(runs / 'a', runs / 'b'))
    assert 'only in b: encoder/bias [8]' in other
    assert 'shapes: encoder/scale [16] and [8]' in other


def test_what_is_not_there_is_said(runs):
    with pytest.raises(RunError, match='no readable step 3; there are'):
        list(checkpoint_view.shown(runs / 'a', 3))
    with pytest.raises(RunError, match='there are no checkpoints'):
        list(checkpoint_view.listed(runs / 'c'))
    with pytest.raises(ConfigError, match='what follows @ must be a step; write RUN@100'):
        list(checkpoint_view.difference(runs / 'a@last', runs / 'a'))
