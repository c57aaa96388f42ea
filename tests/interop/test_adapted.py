"""A run's adapters: merged, exported with the base, and alone in peft's layout, there and back."""
# SPDX-License-Identifier: Apache-2.0

import json

import jax
import numpy as np
import pytest
import reference
import test_files
from flax import nnx
from safetensors.numpy import load_file

from t5x_lite import checkpoint, frozen, printing
from t5x_lite.errors import ConfigError
from t5x_lite.interop import adapted, exchange
from t5x_lite.model import transformer
from t5x_lite.tuning.adapter_files import from_adapter
from t5x_lite.tuning.lora import Lora, adapters, merge
from t5x_lite.warm_start import from_hf


def adapted_run(kind, folder, adapt):
    """(folder of files, folder of a run whose adapters were trained, its parameters)."""
    reference.save(test_files.MODELS[kind](), folder / 'base')
    exchange.import_folder(folder / 'base', folder / 'imported')
    own = exchange.architecture_of(folder / 'imported')
    model = transformer.build(own.model, own.heads)
    adapt.apply(model, jax.random.key(1))
    shapes = frozen.flat(nnx.to_pure_dict(nnx.state(model)))
    weights = from_hf(str(folder / 'base')).open(
        own.model, own.heads, {p: x.shape for p, x in shapes.items()}
    )
    assert set(weights.fresh) == {p for p in shapes if '/adapter/' in p}
    draw = lambda i, x: 0.1 * jax.random.normal(jax.random.key(i), x.shape)
    own_arrays = {p: draw(i, shapes[p]) for i, p in enumerate(weights.fresh)}
    params = frozen.unflat(weights.load(shapes) | own_arrays)
    own = exchange.Architecture(model=own.model, heads=own.heads, adapt=adapt)
    run = folder / 'run'
    checkpoint.write_params(run / 'checkpoints', params)
    (run / exchange.IMPORTED).write_text(printing.source(own, 'architecture'))
    return folder / 'base', run, params


@pytest.mark.all
def test_adapters_are_merged_exported_and_come_back_in_pefts_layout(tmp_path):
    adapt = Lora(rank=2, alpha=6.0)
    base, run, params = adapted_run('bert', tmp_path, adapt)
    merged = frozen.flat(merge(params, 3.0))

    adapted.merge_run(run, tmp_path / 'merged')
    own = exchange.architecture_of(tmp_path / 'merged')
    assert own.adapt is None
    _, found = exchange.read_run(tmp_path / 'merged', own)
    for path, x in frozen.flat(found).items():
        np.testing.assert_allclose(x, merged[path], rtol=1e-6, atol=1e-6)

    exchange.export_run(run, tmp_path / 'exported')
    name = 'bert.encoder.layer.1.attention.self.query.weight'
    whole = load_file(tmp_path / 'exported' / 'model.safetensors')
    kernel = merged['encoder/blocks/attention/query/kernel'][1]
    np.testing.assert_allclose(whole[name], np.asarray(kernel).T, rtol=1e-6, atol=1e-6)

    adapted.export_adapter(run, tmp_path / 'adapter')
    fields = json.loads((tmp_path / 'adapter/adapter_config.json').read_text())
    assert (fields['peft_type'], fields['r'], fields['lora_alpha']) == ('LORA', 2, 6.0)
    assert 'bert.encoder.layer.0.attention.self.value' in fields['target_modules']
    tensors = load_file(tmp_path / 'adapter/adapter_model.safetensors')
    layer = 'base_model.model.bert.encoder.layer.1.attention.self.query.'
    down, up = tensors[f'{layer}lora_A.weight'], tensors[f'{layer}lora_B.weight']
    change = whole[name] - load_file(base / 'model.safetensors')[name]
    np.testing.assert_allclose(3.0 * up @ down, change, rtol=1e-4, atol=1e-6)

    init = from_adapter(str(tmp_path / 'adapter'), base=from_hf(str(base)))
    leaves = frozen.flat(params)
    weights = init.open(own.model, own.heads, {p: x.shape for p, x in leaves.items()})
    assert weights.fresh == [] and init.scale == 3.0
    loaded = weights.load(leaves)
    assert loaded.keys() == leaves.keys()
    for path in adapters(params):
        np.testing.assert_array_equal(loaded[path], leaves[path])
    with pytest.raises(ConfigError, match='set alpha=6.0'):
        Lora(rank=2, alpha=2.0).check_init(init)


def test_layers_that_a_file_keeps_in_one_matrix_keep_names_of_our_own(tmp_path):
    base, run, params = adapted_run('gpt2', tmp_path, Lora(rank=2))
    with pytest.raises(ConfigError, match='in one matrix with others.*ckpt merge'):
        adapted.export_adapter(run, tmp_path / 'adapter')
    adapted.export_adapter(run, tmp_path / 'own', own_names=True)
    init = from_adapter(str(tmp_path / 'own'), base=from_hf(str(base)))
    leaves, own = frozen.flat(params), exchange.architecture_of(run)
    shapes = {p: x.shape for p, x in leaves.items()}
    loaded = init.open(own.model, own.heads, shapes).load(leaves)
    for path, x in adapters(params).items():
        np.testing.assert_array_equal(loaded[path], x)
    wrong = {p: (*s[:-1], 3) if p.endswith('down') else s for p, s in shapes.items()}
    with pytest.raises(ConfigError, match='give it the rank and the pattern'):
        init.open(own.model, own.heads, wrong)
    with pytest.raises(ConfigError, match='has no LoRA adapters'):
        adapted.merge_run(tmp_path / 'imported', tmp_path / 'merged')


@pytest.mark.all
def test_peft_computes_with_the_adapter_what_the_merged_model_does(tmp_path):
    peft, transformers = pytest.importorskip('peft'), pytest.importorskip('transformers')
    import torch

    base, run, _ = adapted_run('bert', tmp_path, Lora(rank=2, alpha=6.0))
    adapted.export_adapter(run, tmp_path / 'adapter')
    exchange.export_run(run, tmp_path / 'merged')
    load = transformers.BertForMaskedLM.from_pretrained
    with_adapter = peft.PeftModel.from_pretrained(load(base), str(tmp_path / 'adapter'))
    scores = lambda model: model.eval()(input_ids=torch.tensor([[5, 6, 7, 8]]))[0].detach().numpy()
    found, expected = scores(with_adapter), scores(load(tmp_path / 'merged'))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - scores(load(base))).max() > 1e-3
