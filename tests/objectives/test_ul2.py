"""UL2's data: literal rows, full inputs, exact shares, refusals; UL2R in a decoder alone."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from pathlib import Path

import fixtures
import jax.numpy as jnp
import numpy as np
import pytest
import test_step

from t5x_lite import config, printing
from t5x_lite.data.loader import ShardBatches
from t5x_lite.data.mixed_rows import MixedRows
from t5x_lite.data.randomness import uniforms
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Experiment, Stream
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.transformer import build
from t5x_lite.objective import decode
from t5x_lite.objectives.packed import packed
from t5x_lite.objectives.ul2 import (
    UL2,
    UL2R,
    Denoiser,
    DenoiserMixture,
    Prefix,
    ul2,
    ul2_decoder,
    ul2r,
)
from t5x_lite.optim import AdamW

NLU, S2S, NLG = 3, 4, 5
MODES = {'[NLU]': NLU, '[S2S]': S2S, '[NLG]': NLG}
LENGTHS = {'inputs': 8, 'targets': 7}
SPANS = [0.9, 0.1, 0.5, 0.5, 0.9, 0.5, 0.1, 0.5]  # cut as in test_span_corruption
MIXTURE = DenoiserMixture(
    denoisers=(Denoiser(mean_span=2.0, density=0.5, mode='[NLU]'), Prefix(), Prefix(density=None))
)


@pytest.fixture(scope='module')
def modes(vocabulary):
    """The vocabulary of the literal tests, with mode tokens 3, 4, 5 and sentinels 19, 18, 17."""
    return dataclasses.replace(vocabulary, modes=MODES)


@pytest.fixture(scope='module')
def large(vocabulary):
    """Mode tokens, and 600 sentinels from 999 down."""
    return dataclasses.replace(vocabulary, modes=MODES, sentinels=tuple(range(999, 399, -1)))


def mixed(converter, vocabulary, lengths, tokens, count=None, seed=()):
    """The rows that a text makes, and their batch."""
    cutter = converter.cutter(lengths, vocabulary, seed)
    cutter.add({'targets': np.asarray(tokens, np.int32)})
    if count is None:
        cutter.flush()
    count = cutter.ready() if count is None else count
    rows = cutter.take(count)
    numbers = uniforms((0,), 0, count, converter.draws(lengths))
    return rows, converter.batch(rows, lengths, vocabulary, numbers)


def test_a_batch(modes):
    rows = MixedRows(
        np.array([[9, 10, 11, 12, 13, 14, 15, 16], [6, 7, 8, 9, 10, 11, 12, 13]] * 2, np.int32),
        np.array([8, 8, 6, 3]),
        np.array([1, 0, 2, 1]),
    )
    rows.tokens[2, 6:] = rows.tokens[3, 3:] = 0
    out = MIXTURE.batch(rows, LENGTHS, modes, np.array([SPANS, SPANS, [0.5] * 8, SPANS]))
    inputs = [
        [S2S, 9, 10, 11, 12, 13, 14, 1],  # a quarter of the text is the suffix
        [NLU, 6, 7, 19, 9, 10, 18, 1],
        [S2S, 9, 10, 11, 1, 0, 0, 0],  # a uniform split of six
        [S2S, 6, 7, 1, 0, 0, 0, 0],  # the last row of the data is short
    ]
    targets = [
        [15, 16, 1, 0, 0, 0, 0],
        [19, 8, 18, 11, 12, 13, 1],
        [12, 13, 14, 1, 0, 0, 0],
        [8, 1, 0, 0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(out['encoder_input_tokens'], inputs)
    np.testing.assert_array_equal(out['encoder_segment_ids'], np.array(inputs) > 0)
    np.testing.assert_array_equal(out['decoder_target_tokens'], targets)
    np.testing.assert_array_equal(out['decoder_loss_weights'], np.array(targets) > 0)
    np.testing.assert_array_equal(out['decoder_input_tokens'][1], [0, 19, 8, 18, 11, 12, 13])
    np.testing.assert_array_equal(out['decoder_segment_ids'], np.array(targets) > 0)
    np.testing.assert_array_equal(out['encoder_positions'][2], [0, 1, 2, 3, 4, 0, 0, 0])
    np.testing.assert_array_equal(out['decoder_positions'][0], [0, 1, 2, 0, 0, 0, 0])
    assert {n: (x.shape[1:], x.dtype) for n, x in out.items()} == MIXTURE.spec(LENGTHS)


def test_the_published_mixture_is_table_1():
    told = [(d.density, getattr(d, 'mean_span', None), d.mode) for d in UL2]
    assert told == [
        (0.15, 3, '[NLU]'),
        (0.15, 8, '[NLU]'),
        (0.25, None, '[S2S]'),
        (0.5, 3, '[NLG]'),
        (0.5, 8, '[NLG]'),
        (0.15, 64, '[NLG]'),
        (0.5, 64, '[NLG]'),
    ]
    lengths = {'inputs': 511, 'targets': 512}  # of 512 the mode token takes one
    sizes = [denoiser.sizes(lengths) for denoiser in UL2]
    assert [size.raw for size in sizes] == [567, 587, 680, 765, 906, 599, 1004]
    assert [size.targets for size in sizes] == [114, 100, 171, 510, 511, 92, 511]
    assert [size.sentinels for size in sizes] == [28, 11, 0, 127, 57, 1, 8]


@pytest.mark.parametrize('denoisers', [UL2, UL2R])
def test_shares_are_exact_over_20_000_rows(denoisers, large):
    converter, lengths = DenoiserMixture(denoisers=denoisers), {'inputs': 16, 'targets': 16}
    cutter = converter.cutter(lengths, large, (1,))
    cutter.add({'targets': np.full(700_000, 9, np.int32)})
    found = np.bincount(cutter.take(20_000).kinds) / 20_000
    shares = {'[NLU]': 0.25, '[S2S]': 0.5, '[NLG]': 0.25}
    expected = [shares[d.mode] for d in denoisers] if denoisers is UL2R else [0.8 / 6] * 7
    if denoisers is UL2:
        expected[2] = 0.2
    np.testing.assert_allclose(found, expected, atol=1e-3)  # the last cycle is not complete


@pytest.mark.parametrize('inputs', [64, 128, 256, 512, 1024])
def test_every_denoiser_fills_the_inputs_mode_token_included(inputs, large):
    converter, lengths = DenoiserMixture(), {'inputs': inputs, 'targets': inputs}
    converter.check(lengths, large)
    rows, out = mixed(converter, large, lengths, np.full(40 * inputs, 9), count=15)
    assert set(rows.kinds) == set(range(7))
    assert out['encoder_segment_ids'].all()
    np.testing.assert_array_equal(out['encoder_input_tokens'][:, -1], 1)
    first = [MODES[UL2[kind].mode] for kind in rows.kinds]
    np.testing.assert_array_equal(out['encoder_input_tokens'][:, 0], first)
    sizes = [denoiser.sizes({**lengths, 'inputs': inputs - 1}) for denoiser in UL2]
    scored = out['decoder_loss_weights'].sum(1)
    np.testing.assert_array_equal(scored, [sizes[kind].targets for kind in rows.kinds])
    ends = out['decoder_target_tokens'][np.arange(15), scored.astype(int) - 1]
    np.testing.assert_array_equal(ends, 1)


def test_at_most_one_place_stays_empty_and_that_at_density_a_half():
    for inputs in range(3, 600):
        for denoiser in UL2:
            raw, targets, sentinels = denoiser.sizes({'inputs': inputs, 'targets': inputs})
            used = raw - (targets - 1 - sentinels) + sentinels + 1
            assert used == inputs or (used == inputs - 1 and denoiser.density == 0.5)


def test_inputs_and_targets_put_together_are_the_text(large):
    tokens = np.random.default_rng(0).integers(6, 17, 2000)
    lengths = {'inputs': 40, 'targets': 40}
    rows, out = mixed(DenoiserMixture(), large, lengths, tokens)
    assert rows.lengths[-1] < DenoiserMixture().denoisers[rows.kinds[-1]].sizes(lengths).raw
    found = []
    for kind, inputs, targets in zip(
        rows.kinds, out['encoder_input_tokens'], out['decoder_target_tokens'], strict=True
    ):
        inputs, targets = (list(x[: list(x).index(1)]) for x in (inputs, targets))
        assert inputs.pop(0) == MODES[UL2[kind].mode]
        hidden, last = {None: []}, None
        for token in targets:
            last = token if token in large.sentinels else last
            hidden.setdefault(last, []).extend([] if token == last else [token])
        found += [t for token in inputs for t in hidden.pop(token, [token])] + hidden.pop(None)
        assert not hidden
    np.testing.assert_array_equal(found, tokens)


def test_a_row_depends_on_its_own_numbers_only(large):
    """The rows around it, and what kinds they are, change no row."""
    lengths, tokens = {'inputs': 24, 'targets': 24}, np.random.default_rng(1).integers(6, 17, 900)
    converter = DenoiserMixture()
    rows, out = mixed(converter, large, lengths, tokens)
    numbers = uniforms((0,), 0, len(rows.kinds), converter.draws(lengths))
    for i in range(len(rows.kinds)):
        one = MixedRows(*(x[i : i + 1] for x in rows))
        alone = converter.batch(one, lengths, large, numbers[i : i + 1])
        for name, x in alone.items():
            np.testing.assert_array_equal(x[0], out[name][i], err_msg=name)


def test_a_restored_stream_goes_on_in_mid_cycle(large):
    class Documents:
        def __init__(self):
            self.next = 0

        def __next__(self):
            self.next += 1
            return {'targets': np.random.default_rng(self.next).integers(6, 17, 50, np.int32)}

        def state(self):
            return {'next': np.int64(self.next)}

        def restore(self, state):
            self.next = int(state['next'])

    lengths = {'inputs': 24, 'targets': 24}
    open_shard = lambda: ShardBatches(Documents(), DenoiserMixture(), lengths, large, 4, (0,))
    one, two = open_shard(), open_shard()
    for _ in range(4):  # 16 rows: one into the second cycle
        next(one)
    two.restore(one.state())
    for _ in range(8):
        a, b = next(one), next(two)
        for name, x in a.items():
            np.testing.assert_array_equal(x, b[name], err_msg=name)


def test_without_mode_tokens_the_text_takes_their_place(vocabulary):
    plain = Denoiser(mean_span=2.0, density=0.5, mode=None)
    converter, lengths = DenoiserMixture(denoisers=[plain]), {'inputs': 7, 'targets': 7}
    converter.check(lengths, vocabulary)  # has no modes
    rows = MixedRows(np.arange(6, 14, dtype=np.int32)[None], np.array([8]), np.array([0]))
    out = converter.batch(rows, lengths, vocabulary, np.array([SPANS]))
    np.testing.assert_array_equal(out['encoder_input_tokens'], [[6, 7, 19, 9, 10, 18, 1]])


def test_a_last_row_of_two_tokens_works_for_every_denoiser(large):
    for denoiser in (*UL2, *UL2R):
        converter = DenoiserMixture(denoisers=[denoiser])
        _, out = mixed(converter, large, {'inputs': 30, 'targets': 30}, [6, 7])
        hidden = [999] * isinstance(denoiser, Denoiser)
        mode = MODES[denoiser.mode]
        assert out['encoder_input_tokens'][0, : 3 + len(hidden)].tolist() == [mode, 6, *hidden, 1]
        assert out['decoder_target_tokens'][0, : 2 + len(hidden)].tolist() == [*hidden, 7, 1]
        assert mixed(converter, large, {'inputs': 30, 'targets': 30}, [6])[0].tokens.shape[0] == 0


def test_uniform_splits_are_uniform(modes):
    converter = DenoiserMixture(denoisers=[Prefix(density=None)])
    _, out = mixed(converter, modes, {'inputs': 7, 'targets': 6}, np.full(100_000, 9))
    prefixes = out['encoder_segment_ids'].sum(1) - 2  # of five tokens, mode token and EOS
    shares = np.bincount(prefixes, minlength=6)[1:5] / len(prefixes)
    assert shares == pytest.approx(0.25, abs=0.01)


def test_ul2r_joins_mode_prefix_and_rest(modes):
    objective = ul2r(denoisers=(Prefix(density=None),))
    rows = MixedRows(np.array([[6, 7, 8, 9]], np.int32), np.array([4]), np.array([0]))
    lengths = {'inputs': 6, 'targets': 6}
    out = objective.converter.batch(rows, lengths, modes, np.array([[0.4]]))
    arrays = {
        'decoder_target_tokens': [S2S, 6, 7, 8, 9, 1],
        'decoder_input_tokens': [0, S2S, 6, 7, 8, 9],
        'decoder_causal_attention': [1, 1, 1, 1, 0, 0],
        'decoder_loss_weights': [0, 0, 0, 1, 1, 1],
    }
    for name, expected in arrays.items():
        np.testing.assert_array_equal(out[name], [expected + [0] * 6], err_msg=name)


def test_short_rows_of_ul2r_can_be_packed_and_no_token_is_lost(large):
    lengths, tokens = {'inputs': 20, 'targets': 20}, np.arange(2000) % 11 + 6
    _, plain = mixed(ul2r().converter, large, lengths, tokens)
    converter = packed(objective=ul2r()).converter
    converter.check(lengths, large)
    _, out = mixed(converter, large, lengths, tokens)
    segments_BxL, alone_BxL = (x['decoder_segment_ids'] for x in (out, plain))
    assert len(segments_BxL) < 0.8 * len(alone_BxL)
    assert segments_BxL.max(1).sum() == len(alone_BxL)
    assert np.count_nonzero(segments_BxL) == np.count_nonzero(alone_BxL)
    # Each segment has a prefix of its own, at its beginning.
    first_BxL = (out['decoder_positions'] == 0) & (segments_BxL > 0)
    assert out['decoder_causal_attention'][first_BxL].all()
    assert not out['decoder_loss_weights'][first_BxL].any()


def test_in_a_decoder_alone_no_target_sees_itself_or_a_later_one(large):
    """Changing one token of each kind of row moves all places, or those from it on."""
    lengths = {'inputs': 12, 'targets': 12}
    objective = ul2_decoder()
    config = ModelConfig(vocab=1000, embed=16, heads=2, mlp=32, decoder_layers=2)
    model = build(config, seed=3)
    _, data = mixed(objective.converter, large, lengths, np.arange(3000) % 11 + 6, count=15)
    hidden = lambda data: decode(model, {k: jnp.asarray(x) for k, x in data.items()})
    before = hidden(data)['decoder_hidden']
    length_B = data['decoder_segment_ids'].sum(1)
    prefix_B = data['decoder_causal_attention'].sum(1)
    for place in (1, 2, 12, 13, 15):  # 11 places of inputs after BOS
        changed = data['decoder_input_tokens'].copy()
        changed[:, place] = np.where(changed[:, place] == 6, 7, 6)
        after = hidden({**data, 'decoder_input_tokens': changed})['decoder_hidden']
        moved_BxL = np.asarray(jnp.abs(after - before).max(-1) > 1e-6)
        for row, (length, prefix) in enumerate(zip(length_B, prefix_B, strict=True)):
            if place < length:
                first = 0 if place < prefix else place
                expected = (np.arange(24) >= first) & (np.arange(24) < length)
                np.testing.assert_array_equal(moved_BxL[row, :length], expected[:length])


@pytest.mark.parametrize(
    'refused, parts',
    [
        (lambda: Denoiser(mean_span=3.0, density=0.0, mode=None), ['density=0.0', '(0, 1)']),
        (lambda: Denoiser(mean_span=0.5, density=0.1, mode=None), ['mean_span=0.5', '1 or more']),
        (lambda: Prefix(share=0), ['Prefix: share=0', 'integer of 1 or more']),
        (lambda: Prefix(share=0.2), ['share=0.2']),
        (lambda: Prefix(density=1.0), ['Prefix: density=1.0', 'None for a uniform split']),
        (lambda: ul2(denoisers=()), ['denoisers=()', 'at least one']),
    ],
)
def test_bad_settings_are_refused(refused, parts):
    with pytest.raises(ConfigError) as error:
        refused()
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize('objective', [ul2(), ul2_decoder()])
@pytest.mark.parametrize(
    'lengths, parts',
    [
        ({'inputs': 512, 'targets': 510}, ["['targets']=510", '511 or more', 'mean_span=8.0']),
        ({'inputs': 3, 'targets': 9}, ["lengths['inputs']=3", '4 or more']),
        ({'inputs': 9, 'target': 9}, ["'target'", 'nearest: targets']),
        ({'targets': 9}, ["must have 'inputs'"]),
    ],
)
def test_bad_lengths_are_refused(objective, lengths, parts):
    with pytest.raises(ConfigError) as error:
        objective.converter.check(lengths)
    assert all(part in str(error.value) for part in parts)


def test_a_vocabulary_that_lacks_something_is_refused(large):
    lengths = {'inputs': 512, 'targets': 512}
    check = lambda **lacks: DenoiserMixture().check(lengths, dataclasses.replace(large, **lacks))
    check()
    check(sentinels=large.sentinels[:127])
    with pytest.raises(ConfigError, match='needs 127 sentinels for 765 tokens.* has 126'):
        check(sentinels=large.sentinels[:126])
    with pytest.raises(ConfigError, match=r"no mode token '\[S2S\]'.*mode=None"):
        check(modes={'[NLU]': NLU, '[NLG]': NLG})
    with pytest.raises(ConfigError, match='no eos id'):
        check(eos=None)


@pytest.mark.one
@pytest.mark.parametrize('name, layers', [('ul2', (2, 2)), ('ul2r', (0, 2))])
def test_it_overfits_a_batch(name, layers):
    objective = {'ul2': ul2, 'ul2r': ul2r}[name]()
    info = dataclasses.replace(
        fixtures.vocabulary(), modes={'[NLU]': 2, '[S2S]': NLU, '[NLG]': S2S}
    )
    lengths = {'inputs': 16, 'targets': 16}
    stream = Stream(mixture='none', objective=objective, lengths=lengths, batch_size=16)
    model = ModelConfig(
        vocab=64, embed=64, heads=4, mlp=128, encoder_layers=layers[0], decoder_layers=layers[1]
    )
    experiment = Experiment(
        model=model, streams={name: stream}, optimizer=AdamW(learning_rate=3e-3, clip=1.0), steps=9
    )
    shard = ShardBatches(fixtures.documents(), objective.converter, lengths, info, 16, (0,))
    values, _ = test_step.run(experiment, [{name: next(shard)}] * 120)
    assert values[0][f'{name}/nll'] > 3.5 and values[-1][f'{name}/nll'] < 0.05


@pytest.mark.parametrize('name, factory', [('ul2', ul2), ('ul2r', ul2r)])
def test_its_gin_file_and_its_print_make_it_again(name, factory, tmp_path):
    folder = Path(__file__).parents[2] / 'configs'
    model = 'encoder_decoder_mini' if name == 'ul2' else 'decoder_mini'
    bindings = [
        'experiment.Experiment.steps = 7',
        'experiment.Experiment.optimizer = @optim.AdamW()',
        'optim.AdamW.learning_rate = 0.1',
        f'{name}/experiment.Stream.mixture = "any"',
        f'{name}/experiment.Stream.batch_size = 2',
        f"{name}/experiment.Stream.lengths = {{'inputs': 64, 'targets': 64}}",
    ]
    text = ['from __gin__ import dynamic_registration', 'from t5x_lite import experiment']
    text += ['from t5x_lite import optim', f"include 'models/{model}.gin'"]
    text += [f"include 'objectives/{name}.gin'", *bindings]
    (tmp_path / 'run.gin').write_text('\n'.join(text))
    found = config.load(tmp_path / 'run.gin', search_paths=[folder]).experiment
    assert found.streams[name].objective == factory()
    names = {}
    exec(printing.source(found), names)
    assert names['experiment'] == found
