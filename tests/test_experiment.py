"""An experiment that cannot work is refused when it is built, in one message with a fix."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import fixtures
import pytest

from t5x_lite.errors import ConfigError
from t5x_lite.evaluate import LossEval, Samples
from t5x_lite.experiment import Checkpoints
from t5x_lite.model.positions import Learned
from t5x_lite.objective import Objective, Term
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.objectives.contrastive import simcse
from t5x_lite.objectives.losses import TokenLoss
from t5x_lite.objectives.mlm import mlm
from t5x_lite.objectives.span_corruption import span_corruption
from t5x_lite.retrieval import EmbedEval

DROPOUT = dict(dropout=0.1)


@pytest.mark.parametrize(
    'make, words',
    [
        (lambda: fixtures.experiment('clm', seed=-1), ['seed=-1', '0 or more']),
        (lambda: fixtures.experiment('clm', steps=0), ['steps=0', '1 or more']),
        (lambda: fixtures.experiment(), ['streams={}', 'at least one']),
        (lambda: fixtures.experiment('simcse'), ['dropout', 'set model.dropout=0.1']),
        (
            lambda: fixtures.experiment('simcse', model=DROPOUT, batch_size=1),
            ['batch_size=1', 'negative'],
        ),
        (
            lambda: fixtures.experiment('clm', rules={'batch': ('data', 'fdsp')}),
            ["rules['batch']", 'nearest: fsdp'],
        ),
        (
            lambda: fixtures.experiment('clm', model=dict(positions=Learned(8))),
            ['length 16', 'knows 8'],
        ),
        (lambda: fixtures.experiment('clm', evals={'loss': LossEval(every=0)}), ['every=0']),
        (lambda: fixtures.experiment('clm', evals={'loss': LossEval(batches=0)}), ['batches=0']),
        (lambda: fixtures.experiment('clm', evals={'samples': Samples(prompt=0)}), ['prompt=0']),
        (
            lambda: fixtures.experiment('mlm', evals={'embed': EmbedEval(stream='mml')}),
            ["stream='mml'", 'nearest: mlm'],
        ),
        (
            lambda: fixtures.experiment('clm', checkpoint=Checkpoints(best='eval/cml/loss')),
            ["best='eval/cml/loss'", 'nearest: clm'],
        ),
        (
            lambda: fixtures.experiment(
                'clm',
                checkpoint=Checkpoints(best='eval/clm/loss', every=30),
                evals={'loss': LossEval(every=20)},
            ),
            ['never known at a save'],
        ),
        (lambda: Checkpoints(every=0), ['every=0']),
        (lambda: Checkpoints(keep_best=3), ['keep_best=3', "best='eval"]),
        (lambda: Term(loss=TokenLoss(), weight=-1.0), ['weight=-1.0']),
        (
            lambda: Objective(converter=None, forward=None, terms={}),
            ['terms={}', 'at least one Term'],
        ),
        (lambda: span_corruption(density=1.0), ['density=1.0']),
    ],
)
def test_what_cannot_work_is_refused(make, words):
    with pytest.raises(ConfigError) as error:
        make()
    assert all(word in str(error.value) for word in words), error.value


def stream(**changes):
    return dataclasses.replace(fixtures.experiment('span').streams['span'], **changes)


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(lengths={'inputs': 2, 'targets': 12}), ["lengths['inputs']=2", '3 or more']),
        (dict(lengths={'inputs': 64, 'targets': 8}), ["lengths['targets']=8", 'must be 1']),
        (dict(lengths={'input': 24, 'targets': 12}), ["'input'", 'nearest: inputs']),
        (dict(batch_size=0), ['batch_size=0']),
        (dict(weight=-1.0), ['weight=-1.0']),
    ],
)
def test_a_stream_that_cannot_work_is_refused(change, words):
    with pytest.raises(ConfigError) as error:
        stream(**change)
    assert all(word in str(error.value) for word in words), error.value


def test_two_terms_of_one_name_share_their_head_or_are_refused():
    two = fixtures.experiment('mlm', 'mlm_simcse', model=DROPOUT)
    assert set(two.heads) == {'mlm', 'simcse'}
    streams = {
        'a': fixtures.experiment('simcse', model=DROPOUT).streams['simcse'],
        'b': fixtures.experiment('simcse', model=DROPOUT).streams['simcse'],
    }
    streams['b'] = dataclasses.replace(streams['b'], objective=simcse(mlp=False))
    with pytest.raises(ConfigError, match="two terms named 'simcse' have different heads"):
        dataclasses.replace(two, streams=streams)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(weight=0.0), 'all weights of streams or terms are 0, in clm'),
        (dict(objective=causal_lm(weight=0)), 'all weights of streams or terms are 0, in clm'),
        (dict(weight=lambda step: 1.0 - step), "'clm': weight=.*goes down to -9 within 10 steps"),
        (dict(rates={'austen': lambda step: -1.0}), r"rates\['austen'\]=.*must never be negative"),
        (dict(rates={'austen': -1.0}), r"rates\['austen'\]=-1.0 must never be negative"),
    ],
)
def test_weights_and_rates_that_are_all_0_or_negative_are_refused(change, message):
    experiment = fixtures.experiment('clm')
    streams = {'clm': dataclasses.replace(experiment.streams['clm'], **change)}
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(experiment, streams=streams)


def test_held_out_losses_may_be_of_another_objective_with_the_same_heads():
    other = mlm(rate=0.3)
    own = fixtures.experiment('mlm', evals={'loss': LossEval(objectives={'mlm': other})})
    assert own.evals['loss']._experiment(own).streams['mlm'].objective == other
    with pytest.raises(ConfigError, match="objectives name a stream 'mml' that is not there"):
        fixtures.experiment('mlm', evals={'loss': LossEval(objectives={'mml': other})})
    with pytest.raises(ConfigError, match='objectives have other heads than those'):
        fixtures.experiment('mlm', evals={'loss': LossEval(objectives={'mlm': mlm(head=None)})})


def test_the_best_checkpoint_may_go_by_a_held_out_loss():
    best, loss = Checkpoints(best='eval/mlm/loss', every=40), LossEval(every=20)
    own = fixtures.experiment('mlm', checkpoint=best, evals={'loss': loss})
    assert own.checkpoint.best == 'eval/mlm/loss'
    assert loss._experiment(own).streams == own.streams
