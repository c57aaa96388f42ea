"""Exported functions: the README's own lines, run where t5x_lite is not, give the run's output."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import re
import subprocess
import sys

import fixtures
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from t5x_lite import checkpoint, main, printing, step
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Stream
from t5x_lite.interop import exchange, serialized
from t5x_lite.model import presets
from t5x_lite.model.positions import Learned
from t5x_lite.objectives import similarity
from t5x_lite.objectives.classification import classification
from t5x_lite.tuning.lora import Lora

SIZES = dict(embed=16, mlp=32, heads=2)
ENCODER = SIZES | dict(decoder_layers=0, types=2, positions=Learned(length=64))
DECODER = SIZES | dict(encoder_layers=0)

# Runs the code of a README where neither of the two can be imported, then with rows of its own.
ALONE = """
import sys
sys.modules['t5x_lite'] = sys.modules['flax'] = None
exec(sys.stdin.read())
more = np.random.default_rng(0).integers(3, 64, (3, 9)).astype(np.int32)
seen = np.arange(9)[None] < np.array([[9], [4], [6]])
weights = load_file('model.safetensors')
other = predict(weights, more, seen.astype(np.int32), *[0 * more] * (len(inputs) - 2))
np.savez('found.npz', tokens=tokens, mask=mask, output=output, more=more, seen=seen, other=other)
"""


def run_of(experiment, folder):
    """A run's folder with weights that were never trained and a tokenizer, and its model."""
    params = fixtures.params(experiment)
    draw = lambda path, x: x + 0.1 * jax.random.normal(jax.random.key(len(str(path))), x.shape)
    params = jax.tree_util.tree_map_with_path(draw, params)
    (folder / 'hugging_face').mkdir(parents=True)
    (folder / 'hugging_face' / 'tokenizer.json').write_text('{}')
    (folder / 'experiment.py').write_text(printing.source(experiment))
    checkpoint.write_params(folder / 'checkpoints', params)
    return step.model_of(experiment)(params)


def labelled():
    stream = Stream(
        mixture='none',
        objective=classification(labels=3, pool=similarity.pool_mean),
        lengths={'inputs': 16},
        batch_size=8,
    )
    base = fixtures.experiment('mlm', model=ENCODER, adapt=Lora(rank=2, alpha=4.0))
    return type(base)(**{**vars(base), 'streams': {'mlm': base.streams['mlm'], 'own': stream}})


def code_of(folder) -> str:
    (code,) = re.findall(r'```python\n(.*?)```', (folder / 'README.md').read_text(), re.S)
    return code


def alone(folder):
    """What the README's lines give in a process of their own."""
    count = 'types' in code_of(folder)
    script = ALONE.replace('len(inputs)', str(2 + count))
    code = code_of(folder)
    subprocess.run(
        [sys.executable, '-c', script], input=code, text=True, check=True, cwd=folder, timeout=120
    )
    return dict(np.load(folder / 'found.npz'))


def hidden(model, tokens, mask):
    if model.encoder is None:
        return model.decode(tokens, segments=mask)[0]
    return model.encode(tokens, segments=mask)


OUTPUTS = {
    'embedding': lambda model, x, mask: similarity.normalise_rows(x[:, 0]),
    'mlm': lambda model, x, mask: model.heads['mlm'](x, model)[..., :64],
    'classifier': lambda model, x, mask: model.heads['classifier'](
        similarity.pool_mean(x, mask > 0)
    ),
    'next': lambda model, x, mask: model.logits(x)[..., :64],
}


def check(experiment, head, folder, **chosen):
    model = run_of(experiment, folder / 'run')
    serialized.export_function(folder / 'run', folder / head, head=head, **chosen)
    found = alone(folder / head)
    for tokens, mask, output in (('tokens', 'mask', 'output'), ('more', 'seen', 'other')):
        rows = found[tokens], found[mask].astype(np.int32)
        output_of = lambda model, *rows: OUTPUTS[head](model, hidden(model, *rows), rows[1])
        expected = jax.jit(output_of)(model, *rows)
        real = rows[1] > 0 if expected.ndim == 3 else slice(None)
        np.testing.assert_allclose(found[output][real], expected[real], rtol=1e-5, atol=1e-5)
    return found


def test_the_readmes_lines_give_the_runs_scores_of_classes_without_t5x_lite(tmp_path):
    found = check(labelled(), 'classifier', tmp_path)
    assert found['other'].shape == (3, 3)
    names = load_file(tmp_path / 'classifier/model.safetensors')
    assert 'heads/classifier/output/kernel' in names
    assert not any('heads/mlm' in name or 'adapter' in name for name in names)


@pytest.mark.all
@pytest.mark.parametrize('head', ['embedding', 'mlm', 'next'])
def test_vectors_and_scores_of_tokens_are_the_runs_without_t5x_lite(head, tmp_path):
    if head == 'next':
        check(fixtures.experiment('clm', model=DECODER), head, tmp_path)
    else:
        pool = {'pool': 'cls'} if head == 'embedding' else {}
        check(labelled(), head, tmp_path, **pool)


def test_what_a_run_cannot_give_is_refused_by_name():
    own = lambda one: exchange.Architecture(model=one.model, heads=one.heads)
    encoder = own(fixtures.experiment('mlm', model=ENCODER))
    refused = [
        (encoder, 'mlmm', 'no such head; nearest: mlm'),
        (encoder, 'next', 'a decoder that stands alone, the model has encoder'),
        (encoder, 'embedding', 'say --pool cls, mean, last, none'),
        (own(fixtures.experiment('clm', model=DECODER)), 'embedding', 'needs an encoder'),
        (own(fixtures.experiment('span', model=SIZES)), 'next', 'encoder and decoder'),
    ]
    for one, head, message in refused:
        with pytest.raises(ConfigError, match=message):
            serialized.chosen(one, {}, head)


def test_a_length_that_the_positions_do_not_know_is_refused_by_the_function():
    one = fixtures.experiment('mlm', model=ENCODER)
    own = exchange.Architecture(model=one.model, heads=one.heads)
    params = exchange.flatten_dict(step.abstract_params(one), sep='/')
    predict = serialized.chosen(own, {}, 'embedding', 'mean')
    exported, used = serialized.serialised(own, predict, {p: x.shape for p, x in params.items()})
    weights = {path: np.zeros(params[path].shape, np.float32) for path in used}
    tokens = np.ones((2, 65), np.int32)
    with pytest.raises(ValueError, match='64'):
        exported.call(weights, tokens, tokens, tokens)


@pytest.mark.parametrize(
    'model, head',
    [
        (presets.t5_1_1_small(), 'embedding'),
        (presets.umt5_small(), 'embedding'),
        (presets.modernbert_base(), 'embedding'),
        (presets.electra_small(), 'embedding'),
        (presets.llama3_8b(), 'next'),
        (presets.qwen3_0_6b(), 'next'),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_batch_and_length_stay_open_for_models_as_published(model, head):
    """Two layers, real widths: only shapes are traced."""
    few = {f'{stack}_layers': 2 for stack in model.stacks}
    own = exchange.Architecture(model=dataclasses.replace(model, **few), heads={})
    _, like = exchange.abstract(own, None)
    predict = serialized.chosen(own, {}, head, 'mean')
    exported, used = serialized.serialised(own, predict, {p: x.shape for p, x in like.items()})
    assert all(str(size) in 'bl' for size in exported.in_avals[-1].shape)
    assert exported.platforms == ('cpu', 'tpu', 'cuda')
    assert not any(path.startswith('decoder/') for path in used) or head == 'next'


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    run_of(fixtures.experiment('clm', model=DECODER), tmp_path / 'run')
    arguments = ['--from', str(tmp_path / 'run'), '--to', str(tmp_path / 'out'), '--head', 'next']
    main.main(['ckpt', 'export-jax', *arguments])
    assert 'scores of the token after each [B, L, 64]' in capsys.readouterr().out
    names = {path.name for path in (tmp_path / 'out').iterdir()}
    assert names == {'README.md', 'model.safetensors', 'predict.jax', 'tokenizer.json'}
