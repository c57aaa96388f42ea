"""Weights of files are read straight into the shards of a mesh; nothing needs transformers here."""
# SPDX-License-Identifier: Apache-2.0

import json

import fixtures
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from t5x_lite import beginning, sharding, step
from t5x_lite.errors import ConfigError
from t5x_lite.interop import files, hugging_face
from t5x_lite.model import presets
from t5x_lite.sharding import MeshShape
from t5x_lite.warm_start import from_hf

safetensors = pytest.importorskip('safetensors', reason="needs pip install '.[hf]'")
SMALL = dict(vocab=62, embed=32, heads=4, mlp=64, encoder_layers=3)


def small(**fields):
    """A masked-LM experiment on a small BERT; the fixture's fields aside."""
    model = presets.bert_tiny(**SMALL)
    names = {f: getattr(model, f) for f in model.__dataclass_fields__}
    return fixtures.experiment('mlm', model=names, **fields)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('files')
    experiment = small(seed=5)
    arrays = flatten_dict(step.init_state(experiment).params, sep='/')
    hugging_face.write_folder(path, experiment.model, experiment.heads, arrays)
    return path, arrays


def start(experiment, devices):
    mesh = sharding.make_mesh(experiment.mesh, jax.devices()[:devices])
    weights = beginning.open_init(experiment)
    state = step.make_init(experiment, mesh)()
    arrays = weights.load(flatten_dict(state.params, sep='/'))
    return flatten_dict(state.params, sep='/'), arrays


@pytest.mark.parametrize('mesh', [MeshShape(fsdp=2, model=2), MeshShape(fsdp=4), MeshShape()])
def test_every_array_lies_as_it_trains_and_has_the_files_values(folder, mesh):
    path, expected = folder
    experiment = small(mesh=mesh, init=from_hf(str(path)), batch_size=16)
    before, after = start(experiment, 8)
    for name, array in after.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
        assert array.sharding == before[name].sharding, name


def test_only_the_shards_own_slices_are_read(folder, monkeypatch):
    """A device's share of a matrix is all that is in memory of it beside the model."""
    path, expected = folder
    read, largest = files.read_folder, []

    def watched(folder):
        tensors = read(folder)
        for name, tensor in tensors.items():

            def part(index, tensor=tensor):
                found = tensor.read(index)
                largest.append(found.nbytes / (4 * np.prod(tensor.shape)))
                return found

            tensors[name] = tensor._replace(read=part) if len(tensor.shape) == 2 else tensor
        return tensors

    monkeypatch.setattr(files, 'read_folder', watched)
    start(small(mesh=MeshShape(fsdp=4, model=2), init=from_hf(str(path)), batch_size=16), 8)
    assert sorted(largest)[len(largest) // 2] == 1 / 8


def test_padding_rows_here_and_there(folder, tmp_path):
    path, expected = folder
    model = presets.bert_tiny(**SMALL, vocab_multiple=64)
    names = {f: getattr(model, f) for f in model.__dataclass_fields__}
    experiment = fixtures.experiment('mlm', model=names, init=from_hf(str(path)))
    _, arrays = start(experiment, 1)
    table = arrays['token_embedding/embedding']
    assert table.shape == (64, 32) and not table[62:].any()
    np.testing.assert_array_equal(table[:62], expected['token_embedding/embedding'])
    hugging_face.write_folder(tmp_path, experiment.model, experiment.heads, arrays)
    for name in ('model.safetensors', 'config.json'):
        assert (tmp_path / name).read_bytes() == (path / name).read_bytes()


def test_another_architecture_is_refused_by_the_field_that_differs(folder):
    path, _ = folder
    model = presets.bert_tiny(**SMALL, norm_first=True)
    names = {f: getattr(model, f) for f in model.__dataclass_fields__}
    experiment = fixtures.experiment('mlm', model=names, init=from_hf(str(path)))
    with pytest.raises(
        ConfigError, match='has norm_first=False, but the model has norm_first=True'
    ):
        beginning.open_init(experiment)


def test_labels_and_their_names_are_kept_apart_from_two_classes(tmp_path):
    from flax import nnx

    from t5x_lite.model.heads import ClassifierHead
    from t5x_lite.model.transformer import build

    model, heads = presets.bert_tiny(**SMALL), {'classifier': ClassifierHead(labels=5)}
    arrays = flatten_dict(nnx.to_pure_dict(nnx.state(build(model, heads))), sep='/')
    hugging_face.write_folder(tmp_path, model, heads, arrays)
    fields = json.loads((tmp_path / 'config.json').read_text())
    assert fields['architectures'] == ['BertForSequenceClassification']
    assert len(fields['id2label']) == 5
    assert hugging_face.heads_of(hugging_face.open_folder(tmp_path)) == heads
