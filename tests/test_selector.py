"""The selector: first match wins, all is covered, a pattern that is found nowhere is refused."""
# SPDX-License-Identifier: Apache-2.0

import pytest

from t5x_lite import selector
from t5x_lite.errors import ConfigError

SHAPES = {
    'token_embedding/embedding': (64, 8),
    'encoder/blocks/mlp/wide/kernel': (3, 8, 16),
    'encoder/blocks/mlp/wide/bias': (3, 16),
}


def test_the_first_pattern_found_gives_the_value_one_for_each_layer():
    rules = (('bias$', 'c'), ('blocks/2/', 'a'), ('blocks/', 'b'), ('.*', 'd'))
    assert selector.choose(rules, SHAPES, 'x') == {
        'token_embedding/embedding': 'd',
        'encoder/blocks/mlp/wide/kernel': ('b', 'b', 'a'),
        'encoder/blocks/mlp/wide/bias': 'c',
    }


def test_a_pattern_that_is_found_nowhere_is_refused_with_the_nearest_paths():
    rules = (('blocks/0/mpl/wide/kernel', True), ('.*', False))
    with pytest.raises(ConfigError, match=r"'blocks/0/mpl.*encoder/blocks/0/mlp/wide/kernel"):
        selector.choose(rules, SHAPES, 'x')


def test_a_parameter_that_no_pattern_covers_is_refused():
    with pytest.raises(ConfigError, match=r'no pattern is found in encoder/blocks/1/mlp/wide/ker'):
        selector.choose((('blocks/0', True), ('embed|bias', False)), SHAPES, 'x')


@pytest.mark.parametrize(
    'rules, told',
    [
        ('.*', 'pairs of a pattern'),
        ((('.*',),), 'must be a pattern and a value'),
        ((('(', True),), 'no regular expression'),
        ((('.*', 0),), 'True, False, or the step'),
        ((('.*', 'yes'),), 'True, False, or the step'),
    ],
)
def test_wrong_rules_are_refused_where_they_are_given(rules, told):
    with pytest.raises(ConfigError, match=told):
        selector.check_trainable('Experiment: trainable', rules)
