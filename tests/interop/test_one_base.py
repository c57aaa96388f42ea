"""Several adapters on one base: each gives what its merged model gives; the base is held once."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import fixtures
import jax
import numpy as np
import pytest

from t5x_lite import checkpoint, frozen, printing, step
from t5x_lite.errors import ConfigError
from t5x_lite.interop import adapted, one_base
from t5x_lite.tuning.lora import Lora, merge

SMALL = dict(embed=16, mlp=32, heads=2, decoder_layers=0)
TOKENS = np.random.default_rng(0).integers(7, 50, (2, 8)).astype(np.int32)


def plain(**fields):
    return fixtures.experiment('mlm', model=SMALL, **fields)


def written(one, folder, params):
    folder.mkdir()
    (folder / 'experiment.py').write_text(printing.source(one))
    checkpoint.write_params(folder / 'checkpoints', params)


def adapted_run(folder, base, adapt, seed, **fields):
    """The merged model of a run that is written: the base, adapters and a head of its own."""
    one = plain(adapt=adapt, **fields)
    leaves = frozen.flat(fixtures.params(one))
    draw = lambda i, x: 0.3 * jax.random.normal(jax.random.key(seed + i), x.shape)
    own = {p: draw(i, x) for i, (p, x) in enumerate(leaves.items()) if p not in base}
    own |= {p: draw(99, x) for p, x in leaves.items() if p.startswith('heads/')}
    params = frozen.unflat({**base, **own})
    written(one, folder, params)
    merged = merge(params, adapt.scale)
    return step.model_of(dataclasses.replace(one, adapt=None, trainable=None))(merged)


@jax.jit
def scores(model, tokens=TOKENS):
    return model.heads['mlm'](model.encode(tokens), model)


def test_adapters_of_runs_on_one_base_give_what_their_merged_models_give(tmp_path):
    base = frozen.flat(fixtures.params(plain()))
    written(plain(), tmp_path / 'base', frozen.unflat(base))
    kinds = {'law': Lora(rank=2), 'news': Lora(rank=2), 'wide': Lora(pattern='mlp/wide', rank=3)}
    merged = {
        name: adapted_run(tmp_path / name, base, lora, 1000 * i)
        for i, (name, lora) in enumerate(kinds.items())
    }
    held, count = one_base.open_base(tmp_path / 'base'), []
    found = jax.jit(lambda model, tokens: (count.append(1), scores(model, tokens))[1])
    for name in (*kinds, 'law'):  # and back again
        adapter = one_base.of_run(held, tmp_path / name)
        model = held.with_adapter(adapter)
        np.testing.assert_allclose(
            found(model, TOKENS), scores(merged[name]), rtol=1e-4, atol=1e-5, err_msg=name
        )
        assert model.token_embedding.embedding[...] is held.arrays['token_embedding/embedding']
        assert all('/adapter/' in path or path.startswith('heads/') for path in adapter.arrays)
    assert len(count) == 2  # law and news share a program
    assert np.abs(scores(merged['law']) - scores(merged['news'])).max() > 1e-2


@pytest.mark.all
def test_adapters_of_files_and_of_the_run_they_came_from_are_the_same(tmp_path):
    base, lora = frozen.flat(fixtures.params(plain())), Lora(rank=2)
    adapted_run(tmp_path / 'run', base, lora, 0)
    adapted.export_adapter(tmp_path / 'run', tmp_path / 'files', own_names=True)
    held = one_base.open_base(tmp_path / 'run')
    assert held.arrays.keys() == base.keys()
    run, files = (
        one_base.of_run(held, tmp_path / 'run'),
        one_base.of_files(held, tmp_path / 'files', lora),
    )
    for path, x in files.arrays.items():
        np.testing.assert_array_equal(x, run.arrays[path])
    a, b = (scores(held.with_adapter(adapter)) for adapter in (run, files))
    np.testing.assert_array_equal(a, b)
    with pytest.raises(ConfigError, match='set alpha'):
        one_base.of_files(held, tmp_path / 'files', Lora(rank=2, alpha=1.0))


def test_what_learned_of_the_base_belongs_to_the_adapter_and_another_base_is_refused(tmp_path):
    base = frozen.flat(fixtures.params(plain()))
    rules = (('/adapter/', True), ('attention_norm', True), ('.*', False))
    adapted_run(tmp_path / 'run', base, Lora(rank=2), 0, trainable=rules)
    held = one_base.open_base(tmp_path / 'run')
    assert 'encoder/blocks/attention_norm/scale' in one_base.of_run(held, tmp_path / 'run').arrays
    kernel = 'encoder/blocks/attention/query/kernel'
    other = dataclasses.replace(held, arrays={**held.arrays, kernel: held.arrays[kernel] + 1e-6})
    with pytest.raises(ConfigError, match='was trained on another base, encoder/blocks/attention'):
        one_base.of_run(other, tmp_path / 'run')
    larger = dataclasses.replace(held, model=dataclasses.replace(held.model, mlp=64))
    with pytest.raises(ConfigError, match='its base has another mlp'):
        one_base.of_run(larger, tmp_path / 'run')


@pytest.mark.all
def test_an_int8_base_is_read_as_it_was_saved_and_carries_its_adapters(tmp_path):
    one = plain(adapt=Lora(rank=2, int8_base=True))
    params = fixtures.params(one)
    written(one, tmp_path / 'run', params)
    held = one_base.open_base(tmp_path / 'run')
    kernel = held.arrays['encoder/blocks/mlp/wide/kernel']
    assert kernel.dtype == np.int8
    np.testing.assert_array_equal(kernel, params['encoder']['blocks']['mlp']['wide']['kernel'])
    model = held.with_adapter(one_base.of_run(held, tmp_path / 'run'))
    np.testing.assert_array_equal(scores(model), scores(step.model_of(one)(params)))
