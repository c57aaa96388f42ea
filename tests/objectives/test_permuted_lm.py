"""Permuted LM: who sees whom, in the arrays and in the model; nothing of a target leaks into it."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import fixtures
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.data.factorisation import Factorisation
from t5x_lite.data.randomness import uniforms
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Experiment, Stream
from t5x_lite.model.config import Local, ModelConfig
from t5x_lite.model.heads import MaskedLMHead
from t5x_lite.model.masks import order_mask, segment_mask
from t5x_lite.model.positions import Learned, NoPositions, Relative, Rope
from t5x_lite.model.transformer import build
from t5x_lite.objective import encode
from t5x_lite.objectives.permuted_lm import NOBODY, PermutedLM, permuted_lm
from t5x_lite.optim import AdamW

LENGTHS = {'targets': 12}


def batch(converter, vocabulary, documents, lengths=LENGTHS, numbers=None, seed=0):
    cutter = converter.cutter(lengths, vocabulary)
    for tokens in documents:
        cutter.add({'targets': np.array(tokens, np.int32)})
    cutter.flush()
    rows = cutter.take(cutter.ready())
    if numbers is None:
        numbers = uniforms((seed,), 0, len(rows.tokens), converter.draws(lengths))
    return converter.batch(rows, lengths, vocabulary, np.asarray(numbers))


def test_a_batch(vocabulary):
    """[CLS] a b A Mr . C D E a b [SEP]: of twelve tokens the word `Mr .`, ranks 2 and 1."""
    spans = [0.0, 0.999]  # one word, four tokens of six to its left; then five words, too many
    spans[0] = 4 / 6 * 60 / 137 + 1e-9  # p(1) = 60 / 137
    numbers = [*spans, 0.5, 0.5, *[0.5] * 12, 0.9, 0.1]
    tokens = [10, 11, 12, 8, 7, 14, 15, 16, 10, 11]
    out = batch(PermutedLM(), vocabulary, [tokens], numbers=[numbers])
    expected = {
        'encoder_input_tokens': [3, *tokens, 4, 5, 5],
        'encoder_target_tokens': [3, *tokens, 4, 8, 7],
        'encoder_loss_weights': [0] * 12 + [1, 1],
        'encoder_segment_ids': [1] * 14,
        'encoder_positions': [*range(12), 4, 5],
        'encoder_order': [0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, NOBODY, NOBODY],
        'encoder_reach': [0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 1, 0],
    }
    for name, row in expected.items():
        np.testing.assert_array_equal(out[name], [row], err_msg=name)


def test_a_short_row_has_unused_query_tokens(vocabulary):
    out = batch(PermutedLM(), vocabulary, [[10, 11, 12]])
    np.testing.assert_array_equal(out['encoder_segment_ids'], [[1] * 5 + [0] * 7 + [1, 0]])
    np.testing.assert_array_equal(out['encoder_loss_weights'], [[0] * 12 + [1, 0]])
    for name, x in out.items():
        assert not x[0, 5:12].any() and not x[0, 13], name


@pytest.mark.parametrize('size', [12, 16, 41])
def test_batches_have_the_shapes_and_types_of_spec(size, vocabulary):
    converter, lengths = PermutedLM(perm_size=16), {'targets': size}
    out = batch(converter, vocabulary, [[*range(6, 17)] * 12], lengths)
    assert {n: (x.shape[1:], x.dtype) for n, x in out.items()} == {
        n: (shape, np.dtype(kind)) for n, (shape, kind) in converter.spec(lengths).items()
    }


def test_special_tokens_are_never_predicted(vocabulary):
    tokens = np.random.default_rng(0).integers(0, 20, 30_000)
    out = batch(PermutedLM(group=2), vocabulary, [tokens], {'targets': 60})
    scored = out['encoder_loss_weights'] > 0
    assert scored.sum() > 10_000
    assert not vocabulary.special[out['encoder_target_tokens'][scored]].any()
    assert (out['encoder_input_tokens'][:, :60] == out['encoder_target_tokens'][:, :60]).all()
    assert (out['encoder_input_tokens'][scored] == vocabulary.mask).all()


def test_a_row_of_special_tokens_predicts_nothing(vocabulary):
    out = batch(PermutedLM(), vocabulary, [[1, 2, 0, 19, 5, 1]])
    assert out['encoder_loss_weights'].sum() == 0
    assert not out['encoder_segment_ids'][0, 12:].any()


def test_words_are_predicted_as_a_whole(vocabulary):
    """A word of three tokens, `Mr . "`: spans take all three, the budget may cut one per block."""
    out = batch(PermutedLM(), vocabulary, [[8, 7, 9] * 2_000], {'targets': 98})
    orders_BxW = out['encoder_order'][:, 1:97].reshape(-1, 32, 3) > 0
    whole, part = orders_BxW.all(-1).sum(), (orders_BxW.any(-1) & ~orders_BxW.all(-1)).sum()
    assert whole > 2.5 * part


def local_perm(ranks, is_masked, perm_size: int):
    """`_local_perm` of zihangdai/xlnet, token by token: who may NOT see whom in the query stream.

    `ranks` orders masked tokens within each block of perm_size; no token is functional.
    """
    size = len(ranks)
    index = [place // perm_size * size + rank for place, rank in enumerate(ranks)]
    rev = [index[i] if is_masked[i] else -1 for i in range(size)]
    own = [rev[i] if is_masked[i] else rev[i] + 1 for i in range(size)]
    return np.array([[own[i] <= rev[j] and is_masked[j] for j in range(size)] for i in range(size)])


def reference(order, positions, length: int, perm_size: int, halves: bool):
    """Who sees whom among content [L] and queries [T] of a row with no padding, by loops."""
    is_masked = [bool(o) for o in order]
    if not halves:
        hidden = local_perm(order, is_masked, perm_size)
    else:  # each half permuted by itself: the first sees nothing of the second, which sees all
        hidden = np.zeros((length, length), bool)
        for begin in range(0, length, perm_size):
            part = slice(begin, min(begin + perm_size, length))
            hidden[part, part] = local_perm(order[part], is_masked[part], perm_size)
            hidden[part, part.stop :] = True
    queries = len(positions)
    sees = np.zeros((length + queries, length + queries), bool)
    for i in range(length):
        for j in range(length):
            sees[i, j] = i == j or not hidden[i, j]  # the content stream sees itself
    for t, place in enumerate(positions):
        for j in range(length):
            sees[length + t, j] = not hidden[place, j]
    return sees


@pytest.mark.parametrize('halves', [False, True])
@pytest.mark.parametrize('length, perm_size', [(24, None), (24, 12), (30, 12), (32, 8)])
def test_who_sees_whom_is_what_xlnet_says(length, perm_size, halves, vocabulary):
    converter = PermutedLM(group=3, perm_size=perm_size, hide_later=halves)
    text = np.random.default_rng(1).integers(6, 17, 8 * (length - 2))
    out = batch(converter, vocabulary, [text], {'targets': length})
    segments = out['encoder_segment_ids']
    found = segment_mask(jnp.asarray(segments), jnp.asarray(segments))
    found = found & order_mask(out['encoder_reach'], out['encoder_order'])
    assert (segments == 1).all() and len(segments) == 8
    for row in range(8):
        places = out['encoder_positions'][row, length:]
        ranks = np.zeros(length, int)  # of targets, by their queries' reach
        ranks[places] = np.argsort(np.argsort(out['encoder_reach'][row, length:])) + 1
        expected = reference(ranks, places, length, perm_size or length, halves)
        np.testing.assert_array_equal(found[row], expected)


def sample(vocabulary, lengths=None, **settings):
    lengths = lengths or {'targets': 20}
    text = np.random.default_rng(2).integers(10, 17, lengths['targets'] - 2)
    return batch(PermutedLM(group=4, **settings), vocabulary, [text], lengths)


def tiny(positions, **fields) -> ModelConfig:
    sizes = dict(vocab=20, embed=16, heads=2, mlp=32, encoder_layers=2)
    return ModelConfig(**sizes, positions=positions, **fields)


def hidden_of(model, rows):
    return jax.jit(lambda rows: encode(model, rows)['encoder_hidden'])(rows)


@pytest.mark.parametrize('settings', [{}, {'perm_size': 8}, {'perm_size': 8, 'hide_later': True}])
@pytest.mark.parametrize('positions', [Rope(), Learned(20)])
def test_no_target_sees_itself_nor_what_comes_later(positions, settings, vocabulary):
    """Change each token in turn: queries of its own and lower ranks must not move, others must."""
    out = sample(vocabulary, **settings)
    model, length = build(tiny(positions), seed=1), 20
    changed = {name: np.repeat(x, length + 1, axis=0) for name, x in out.items()}
    places = np.arange(length)
    changed['encoder_input_tokens'][places, places] = 6  # the last row stays as it was
    hidden = hidden_of(model, changed)
    logits = np.asarray(model.logits(hidden))
    # What moves at all moves by 7e-4 or more in these rows, the rest by 0.
    moved = np.abs(logits[:-1] - logits[-1:]).max(-1) > 1e-5  # [changed token, token that moved]
    order, reach = out['encoder_order'][0], out['encoder_reach'][0]
    targets = out['encoder_positions'][0, length:]
    rest = set(places) - set(targets)  # not predicted: seen by all, or from its block on
    assert (out['encoder_loss_weights'][0, length:] == 1).all() and len(targets) == 5
    for query, target in enumerate(targets, length):
        assert not moved[target, query]
        for other in targets:
            assert moved[other, query] == (order[other] < order[target])
        for place in rest:
            blind = settings.get('hide_later') and place // 8 > target // 8
            assert moved[place, query] == (not blind)
    for place in rest:
        for target in targets:  # content that is not predicted sees no prediction of its block
            earlier = settings.get('hide_later') and target // 8 < place // 8
            assert moved[target, place] == bool(earlier)
    np.testing.assert_array_equal(reach[length:] + 1, order[targets])


def test_changing_query_tokens_moves_no_other_token(vocabulary):
    out = sample(vocabulary)
    model = build(tiny(Rope()), seed=1)
    before = hidden_of(model, out)
    out['encoder_input_tokens'] = out['encoder_input_tokens'].copy()
    out['encoder_input_tokens'][0, 22] = 9
    moved = np.abs(hidden_of(model, out) - before).max(-1) > 1e-5
    assert np.nonzero(moved[0])[0].tolist() == [22]


@pytest.mark.parametrize('norm_first', [True, False])
@pytest.mark.parametrize('positions', [Rope(), Learned(20)])
def test_a_query_equals_its_target_computed_alone(positions, norm_first, vocabulary):
    """Of each target a row of its own: what it may see, at its positions, and one query token."""
    out = sample(vocabulary)
    model = build(tiny(positions, norm_first=norm_first), seed=4)
    together = hidden_of(model, out)[0]
    order, reach = out['encoder_order'][0], out['encoder_reach'][0]
    rows = {name: np.zeros((5, *x.shape[1:]), x.dtype) for name, x in out.items()}
    for row, query in enumerate(range(20, 25)):
        seen = np.append(np.nonzero(order[:20] <= reach[query])[0], query)
        for name, x in out.items():
            rows[name][row, : len(seen)] = x[0, seen]
    lasts = (rows['encoder_segment_ids'] > 0).sum(1) - 1
    assert sorted(lasts) == [15, 16, 17, 18, 19]
    alone = hidden_of(model, rows)[np.arange(5), lasts]
    np.testing.assert_allclose(alone, together[20:], atol=2e-5)


def test_padding_is_invisible(vocabulary):
    out = batch(PermutedLM(), vocabulary, [[10, 11, 12, 13, 14]])
    model = build(tiny(Rope()), seed=1)
    before = hidden_of(model, out)
    used = out['encoder_segment_ids'] > 0
    assert used.sum() == 8
    other = dict(out)
    for name in ('encoder_input_tokens', 'encoder_order', 'encoder_reach', 'encoder_positions'):
        other[name] = np.where(used, out[name], 7 if 'order' not in name else 0)
    np.testing.assert_array_equal(hidden_of(model, other)[used], before[used])


def experiment(objective=None, lengths=None, **model) -> Experiment:
    sizes = dict(vocab=64, embed=64, heads=4, mlp=128, encoder_layers=2) | model
    stream = Stream(
        mixture='none',
        objective=objective or permuted_lm(),
        lengths=lengths or {'targets': 24},
        batch_size=16,
    )
    return Experiment(
        model=ModelConfig(**sizes),
        streams={'x': stream},
        optimizer=AdamW(learning_rate=3e-3, clip=1.0),
        steps=9,
    )


@pytest.mark.one
@pytest.mark.parametrize('head', [None, MaskedLMHead()])
def test_it_overfits_a_batch(head):
    import test_step

    run = experiment(permuted_lm(head=head))
    (data,) = fixtures.batches(run, 1)
    values, _ = test_step.run(run, [data] * 100)
    assert values[0]['x/nll'] > 3.5 and values[-1]['x/nll'] < 0.05


@pytest.mark.parametrize(
    'model, message',
    [
        (dict(positions=Relative()), r'x.: its query tokens.*positions=Relative.*use Rope'),
        (dict(positions=NoPositions()), 'positions=NoPositions.*use Rope'),
        (dict(local=Local(reach=4)), 'model.local=Local.reach=4.*set model.local=None'),
        (dict(positions=Learned(23)), 'length 24, but model.positions knows 23'),
        (dict(encoder_layers=0, decoder_layers=2), 'runs through the encoder'),
    ],
)
def test_models_that_cannot_place_query_tokens_are_refused(model, message):
    with pytest.raises(ConfigError, match=message):
        experiment(**model)


def test_a_table_of_positions_for_the_text_is_enough():
    assert experiment(positions=Learned(24)).streams['x'].spec()['encoder_order'][0] == (16, 28)


def test_an_order_is_refused_where_places_are_not_read():
    ones = jnp.ones((1, 4), jnp.int32)
    with pytest.raises(ConfigError, match='Model.encode.*Relative'):
        build(tiny(Relative())).encode(ones, order=(ones, ones))


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(group=1), 'group=1 must be an integer of 2 or more; try 6'),
        (dict(longest_span=0), 'longest_span=0 must be an integer of 1 or more; try 5'),
        (dict(perm_size=5), 'perm_size=5 must be an integer of 6 or more; try 256.*None'),
        (dict(perm_size=8.0), 'perm_size=8.0 must be an integer'),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        permuted_lm(**settings)


@pytest.mark.parametrize(
    'lengths, message',
    [
        ({'targets': 3}, "'targets'.=3 must be 4 or more"),
        ({'inputs': 8, 'targets': 8}, "unknown feature 'inputs'"),
        ({}, "must have 'targets'"),
    ],
)
def test_bad_lengths_are_refused(lengths, message):
    with pytest.raises(ConfigError, match=message):
        permuted_lm().converter.check(lengths)


def test_a_vocabulary_without_mask_is_refused(vocabulary):
    with pytest.raises(ConfigError, match='no mask id'):
        PermutedLM().check(LENGTHS, dataclasses.replace(vocabulary, mask=None))


def test_equal_settings_are_equal_objectives():
    assert permuted_lm() == permuted_lm(group=6) != permuted_lm(group=5)
    assert Factorisation(length=512) == Factorisation(length=512, perm_size=256)
