"""Text to text, two stacks or one: rows on literals, which targets are scored, learning."""
# SPDX-License-Identifier: Apache-2.0

import labelled
import numpy as np
import pytest
from test_pairs import filled

from t5x_lite import config
from t5x_lite.errors import ConfigError
from t5x_lite.objectives.classification import classification, regression
from t5x_lite.objectives.joined import Joined
from t5x_lite.objectives.multiple_choice import multiple_choice
from t5x_lite.objectives.packed import packed
from t5x_lite.objectives.span_qa import span_qa
from t5x_lite.objectives.supervised import lm, seq2seq
from t5x_lite.objectives.tagging import tagging

THREE = multiple_choice(choices=3)
LENGTHS = {'inputs': 4, 'targets': 3}
EXAMPLES = [
    dict(inputs=[10, 11], targets=[12]),
    dict(inputs=[10, 11, 12, 13, 14], targets=[15, 16, 10]),
    dict(inputs=[10, 1], targets=[11, 12, 1]),  # the task has put EOS there
    dict(inputs=[10], targets=[]),
]


def made(objective, vocabulary):
    converter = objective.converter
    cutter = filled(converter, LENGTHS, vocabulary, EXAMPLES)
    assert (cutter.ready(), cutter.dropped) == (3, 1)
    out = converter.batch(cutter.take(3), LENGTHS, vocabulary, np.zeros((3, 0)))
    assert {n: (x.shape[1:], x.dtype) for n, x in out.items()} == converter.spec(LENGTHS)
    return out


def test_every_row_ends_with_one_eos_however_long_the_text(vocabulary):
    out = made(seq2seq(), vocabulary)
    np.testing.assert_array_equal(
        out['encoder_input_tokens'], [[10, 11, 1, 0], [10, 11, 12, 1], [10, 1, 0, 0]]
    )
    np.testing.assert_array_equal(
        out['decoder_target_tokens'], [[12, 1, 0], [15, 16, 1], [11, 12, 1]]
    )
    np.testing.assert_array_equal(
        out['decoder_input_tokens'], [[0, 12, 0], [0, 15, 16], [0, 11, 12]]
    )
    np.testing.assert_array_equal(out['decoder_loss_weights'], [[1, 1, 0], [1, 1, 1], [1, 1, 1]])
    np.testing.assert_array_equal(out['encoder_segment_ids'][2], [1, 1, 0, 0])


def test_in_one_row_the_targets_follow_the_inputs_and_alone_are_scored(vocabulary):
    out = made(lm(), vocabulary)
    np.testing.assert_array_equal(
        out['decoder_target_tokens'],
        [[10, 11, 12, 1, 0, 0, 0], [10, 11, 12, 15, 16, 1, 0], [10, 11, 12, 1, 0, 0, 0]],
    )
    np.testing.assert_array_equal(
        out['decoder_loss_weights'],
        [[0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 0, 0, 0]],
    )
    assert 'decoder_causal_attention' not in out


def test_with_a_prefix_the_inputs_see_each_other(vocabulary):
    objective = lm(prefix=True)
    assert type(objective.converter) is Joined
    out = made(objective, vocabulary)
    np.testing.assert_array_equal(out['decoder_causal_attention'][0], [1, 1, 1, 0, 0, 0, 0])


def test_short_examples_can_be_packed():
    packed(objective=seq2seq()).converter.check({'inputs': 8, 'targets': 8})


def test_lengths_without_room_are_refused():
    with pytest.raises(ConfigError, match=r"lengths\['targets'\]=1 must be 2 or more"):
        seq2seq().converter.check({'inputs': 4, 'targets': 1})


@pytest.mark.parametrize(
    'make',
    [
        seq2seq,
        pytest.param(lm, marks=pytest.mark.all),
        pytest.param(None, marks=pytest.mark.all),
    ],
)
def test_text_to_text_overfits_a_batch(make):
    """Targets are the inputs in reverse order: nothing that position alone would tell."""
    draw = np.random.default_rng(0)
    words = [labelled.words(draw, 3) for _ in range(8)]
    examples = [dict(inputs=x, targets=x[::-1]) for x in words]
    objective = make() if make else lm(prefix=True)
    run = labelled.experiment(objective, {'inputs': 4, 'targets': 4})
    first, last, _ = labelled.overfitted(run, examples, 60)
    assert first['s/nll'] > 3 and last['s/nll'] < 0.1 and last['s/accuracy'] == 1.0


@pytest.mark.parametrize(
    'name, call, setting, expected',
    [
        ('classification', 'classification.classification', 'labels = 4', classification(labels=4)),
        ('regression', 'classification.regression', "label = 'score'", regression(label='score')),
        ('tagging', 'tagging.tagging', "tags = ('O', 'B-a')", tagging(tags=('O', 'B-a'))),
        ('span_qa', 'span_qa.span_qa', 'stride = 4', span_qa(stride=4)),
        ('multiple_choice', 'multiple_choice.multiple_choice', 'choices = 3', THREE),
        ('seq2seq', 'supervised.seq2seq', 'z_loss = 1e-4', seq2seq(z_loss=1e-4)),
        ('lm', 'supervised.lm', 'prefix = True', lm(prefix=True)),
    ],
)
def test_a_gin_file_makes_the_objective(name, call, setting, expected, tmp_path):
    stream = 'topics' if name == 'classification' else name
    both = name in ('seq2seq', 'lm')
    file = tmp_path / 'run.gin'
    file.write_text(f"""
from __gin__ import dynamic_registration
from t5x_lite import experiment
from t5x_lite import optim
from t5x_lite.model import presets
from t5x_lite.objectives import {call.split('.')[0]}
include 'models/{'decoder' if name == 'lm' else 'encoder_decoder'}_mini.gin'
include 'objectives/{name}.gin'
{'' if name == 'lm' else 'presets.encoder_decoder_mini.types = 2'}
{call}.{setting}
experiment.Experiment.optimizer = @optim.AdamW()
experiment.Experiment.steps = 1
optim.AdamW.learning_rate = 0.1
experiment.Stream:
    mixture = 'any'
    lengths = {dict.fromkeys(expected.converter.features[-2:] if both else ('inputs',), 99)}
    batch_size = 4
""")
    assert config.load(str(file)).experiment.streams[stream].objective == expected
