"""Model cards: what a run's files say stands there as it is; what they do not say is left out."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json

import fixtures
import numpy as np
import pytest
from safetensors.numpy import save_file

from t5x_lite import printing
from t5x_lite.evaluate import LossEval
from t5x_lite.experiment import Stream
from t5x_lite.interop import model_card
from t5x_lite.objectives.mlm import mlm
from t5x_lite.tuning.lora import Lora

METRICS = [
    {'step': 4, 'train/mlm/loss': 5.0},
    {'step': 5, 'eval/mlm/loss': 4.25, 'eval/mlm/accuracy': 0.125},
    {'step': 10, 'eval/mlm/loss': 3.5},
]
FACTS = {
    'command': 't5x-lite train my.py --run runs/mine',
    'devices': '8 x cpu',
    'versions': {'python': '3.11.2', 'jax': '0.10.2'},
}


@pytest.fixture
def exported(tmp_path):
    folder = tmp_path / 'exported'
    folder.mkdir()
    fields = {'architectures': ['BertForMaskedLM'], 'model_type': 'bert'}
    (folder / 'config.json').write_text(json.dumps(fields))
    save_file({'a': np.zeros((30, 40), np.float32)}, folder / 'model.safetensors')
    return folder


def trained(folder, **fields):
    folder.mkdir()
    stream = Stream(mixture='corpus_en_pd', objective=mlm(), lengths={'targets': 16}, batch_size=16)
    one = fixtures.experiment('mlm', model={'decoder_layers': 0}, evals={'loss': LossEval()})
    one = dataclasses.replace(
        one, streams={'mlm': stream}, imports=('t5x_lite.data.tasks.corpus_en_pd',), **fields
    )
    (folder / 'experiment.py').write_text(printing.source(one))
    return one


def test_a_trained_runs_card_says_what_its_files_say_up_to_the_exported_step(tmp_path, exported):
    run = tmp_path / 'mine'
    one = trained(run, adapt=Lora(rank=2))
    (run / 'run.json').write_text(json.dumps(FACTS))
    (run / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, METRICS)) + '\n')
    card = model_card.card(run, one.model, exported, step=5, license='mit', language='en')
    for line in (
        '# mine',
        '- architecture: `BertForMaskedLM`',
        '- parameters: 1,200',
        '- encoder layers: 2',
        '- steps: 5 of 10',
        '- tokens seen: 1,280 (places of batches, padding included)',
        '- command: `t5x-lite train my.py --run runs/mine`',
        '- versions: python 3.11.2, jax 0.10.2',
        '| mlm | `corpus_en_pd` | `corpus_en_pd` | mlm (TokenLoss) |',
        '- splits: trained on `train`; evaluated on `validation` (loss)',
        '- mlm/accuracy: 0.125 (step 5)',
        '- mlm/loss: 4.25 (step 5)',
    ):
        assert line in card.splitlines(), line
    assert 'decoder layers' not in card and '3.5 (step 10)' not in card
    assert 'learning_rate=0.003' in card and 'adapt = Lora(' in card


def test_the_front_matter_is_yaml_with_what_is_known_and_nothing_else(tmp_path, exported):
    yaml = pytest.importorskip('yaml')
    run = tmp_path / 'imported'
    run.mkdir()
    model = fixtures.experiment('mlm', model={'decoder_layers': 0}).model
    read = lambda card: yaml.safe_load(card.split('---')[1])
    card = model_card.card(run, model, exported, step=0)
    tags = {'library_name': 'transformers', 'tags': ['t5x_lite', 'bert']}
    assert read(card) == tags | {'pipeline_tag': 'fill-mask'}
    assert 'Training' not in card and 'Evaluation' not in card
    own = model_card.card(run, model, exported, step=0, license='cc-by-sa-4.0', language='no')
    assert read(own)['license'] == 'cc-by-sa-4.0' and read(own)['language'] == 'no'


@pytest.mark.parametrize(
    'architecture, use',
    [
        ('RobertaForSequenceClassification', 'text-classification'),
        ('ElectraForPreTraining', None),
        ('GPT2LMHeadModel', 'text-generation'),
        ('Qwen3ForCausalLM', 'text-generation'),
        ('T5ForConditionalGeneration', None),
        ('BertModel', 'feature-extraction'),
    ],
)
def test_the_use_follows_from_the_architecture(architecture, use):
    text = model_card.front_matter({'architectures': [architecture], 'model_type': 'any'})
    assert (f'pipeline_tag: "{use}"' in text) if use else ('pipeline_tag' not in text)
