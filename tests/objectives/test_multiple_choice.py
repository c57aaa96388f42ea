"""Multiple choice: a row of each choice, learning, that order changes nothing, what is refused."""
# SPDX-License-Identifier: Apache-2.0

import labelled
import numpy as np
import pytest
from test_classification import batch, means

from t5x_lite.errors import ConfigError
from t5x_lite.model.heads import ClassifierHead
from t5x_lite.objectives.multiple_choice import multiple_choice

TWO = multiple_choice(choices=2)


def test_each_choice_is_a_row_with_the_same_inputs(vocabulary):
    example = dict(inputs=[10, 11, 12], choice_0=[13], choice_1=[14, 15, 16], label=1)
    empty = example | dict(choice_1=[])
    out, dropped = batch(TWO, [example, empty], vocabulary)
    assert dropped == 1
    np.testing.assert_array_equal(
        out['choice_0_encoder_input_tokens'], [[3, 10, 11, 12, 4, 13, 4, 0]]
    )
    np.testing.assert_array_equal(
        out['choice_1_encoder_input_tokens'], [[3, 10, 11, 12, 4, 14, 15, 4]]
    )
    np.testing.assert_array_equal(
        out['choice_0_encoder_token_type_ids'], [[0, 0, 0, 0, 0, 1, 1, 0]]
    )
    np.testing.assert_array_equal(out['choice_labels'], [1])


def examples(swap=False):
    draw = np.random.default_rng(0)
    for i in range(8):
        texts = [labelled.words(draw, 3) for _ in range(3)]
        order = (2, 1) if swap else (1, 2)
        own = {f'choice_{k}': texts[j] for k, j in enumerate(order)}
        yield dict(inputs=texts[0], label=(i % 2) ^ swap) | own


def test_multiple_choice_overfits_a_batch():
    run = labelled.experiment(TWO, {'inputs': 9})
    first, last, _ = labelled.overfitted(run, examples(), 60)
    assert first['s/accuracy'] < 0.9 and last['s/accuracy'] == 1.0 and last['s/loss'] < 0.05


@pytest.mark.all
def test_the_order_of_choices_changes_no_number():
    run = labelled.experiment(TWO, {'inputs': 9})
    found = [means(run, labelled.batch_of(run, examples(swap))) for swap in (False, True)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize(
    'make, words',
    [
        (lambda: multiple_choice(choices=1), ['choices=1', '2 or more']),
        (lambda: multiple_choice(choices=2, head=ClassifierHead(labels=2)), ['labels=1']),
        (lambda: TWO.converter.check({'inputs': 4}), ['5 or more']),
        (lambda: labelled.experiment(TWO, {'inputs': 8}, model=dict(types=0)), ['types=2']),
    ],
)
def test_what_cannot_work_is_refused(make, words):
    with pytest.raises(ConfigError) as error:
        make()
    assert all(word in str(error.value) for word in words), error.value


def test_a_choice_that_is_not_there_is_refused_when_it_is_read(vocabulary):
    example = dict(inputs=[10], choice_0=[13], choice_1=[14], label=2)
    with pytest.raises(ConfigError, match="'label' holds 2, but labels=2"):
        batch(TWO, [example], vocabulary)
