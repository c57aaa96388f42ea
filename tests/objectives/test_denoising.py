"""Denoising's data: each noise on a literal row, shares, targets that are the text, EOS kept."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from collections import Counter

import fixtures
import numpy as np
import pytest

from t5x_lite import config, printing
from t5x_lite.data.randomness import uniforms
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Experiment, Stream
from t5x_lite.model.config import ModelConfig
from t5x_lite.objectives import denoising
from t5x_lite.objectives.denoising import Denoising, Noise
from t5x_lite.optim import AdamW

LENGTHS = {'inputs': 8, 'targets': 8}
TEXT = [12, 11, 7, 13, 10, 7]  # A b. B a.
QUIET = dict(permute_sentences=False, mask_share=0.0)


def batch(settings, vocabulary, documents, lengths=LENGTHS, /, **numbers):
    """A batch; `numbers` are each row's first of a kind, the rest and other kinds are seeded."""
    converter = Denoising(noise=settings)
    converter.check(lengths, vocabulary)
    cutter = converter.cutter(lengths, vocabulary)
    for tokens in documents:
        cutter.add({'targets': np.array(tokens, np.int32)})
    rows = cutter.take(cutter.ready())
    sizes = converter.sizes(lengths)
    draws = uniforms((0,), 0, len(rows.tokens), converter.draws(lengths))
    begins = dict(zip(sizes, np.cumsum([0, *sizes.values()]), strict=False))
    for kind, values in numbers.items():
        assert len(values) <= sizes[kind]
        draws[:, begins[kind] : begins[kind] + len(values)] = values
    return converter.batch(rows, lengths, vocabulary, draws)


def inputs(*arguments, **numbers):
    return batch(*arguments, **numbers)['encoder_input_tokens'].tolist()


def test_a_batch(vocabulary):
    out = batch(
        Noise(),
        vocabulary,
        [TEXT, [14]],  # one token is skipped
        sentences=[0.9, 0, 0, 0.1, 0, 0],  # B a. A b.: four words, of which two are hidden
        lengths=[0.0, 0.3],  # spans of 0 and 2
        places=[0.5, 0.1, 0.2, 0.9],  # B, span, span, b.
    )
    arrays = {
        'encoder_input_tokens': [[13, 5, 5, 11, 7, 1, 0, 0]],
        'encoder_segment_ids': [[1, 1, 1, 1, 1, 1, 0, 0]],
        'encoder_positions': [[0, 1, 2, 3, 4, 5, 0, 0]],
        'decoder_target_tokens': [[12, 11, 7, 13, 10, 7, 1, 0]],
        'decoder_input_tokens': [[0, 12, 11, 7, 13, 10, 7, 0]],
        'decoder_loss_weights': [[1, 1, 1, 1, 1, 1, 1, 0]],
        'decoder_segment_ids': [[1, 1, 1, 1, 1, 1, 1, 0]],
        'decoder_positions': [[0, 1, 2, 3, 4, 5, 6, 0]],
    }
    assert set(out) == set(arrays)
    for name, expected in arrays.items():
        np.testing.assert_array_equal(out[name], expected, err_msg=name)


def test_sentences_are_permuted(vocabulary):
    only = Noise(mask_share=0.0)
    found = inputs(only, vocabulary, [TEXT], sentences=[0.9, 0, 0, 0.1, 0, 0])
    assert found == [[13, 10, 7, 12, 11, 7, 1, 0]]


def test_infilling_by_tokens_or_by_words(vocabulary):
    settings = dict(permute_sentences=False, mask_share=0.5)
    numbers = dict(lengths=[0.3], places=[0.9, 0.1, 0.8, 0.7])  # one span of 2 or more, second
    words = inputs(Noise(**settings), vocabulary, [TEXT], **numbers)  # A | b. | B | a.
    assert words == [[12, 5, 10, 7, 1, 0, 0, 0]]
    tokens = inputs(Noise(**settings, whole_words=False), vocabulary, [TEXT], **numbers)
    assert tokens[0][:2] == [12, 5] and tokens[0].count(5) == 2  # 2 of 3 tokens, and 1 more
    blind = dataclasses.replace(vocabulary, starts_word=np.zeros(20, bool))
    assert inputs(Noise(**settings), blind, [TEXT], **numbers) == tokens


def test_a_mask_may_come_last_and_eos_follows_it(vocabulary):
    settings = Noise(permute_sentences=False, mask_share=0.25)
    places = [0.9, 0.8, 0.7, 0.1]  # of four words three stay; the span is last
    found = inputs(settings, vocabulary, [TEXT], lengths=[0.1], places=places)
    assert found == [[12, 11, 7, 13, 5, 1, 0, 0]]


@pytest.mark.parametrize(
    'settings, numbers, expected',
    [
        (dict(token_masking=0.4), dict(masked=[0.3, 0.5, 0.39, 1, 1, 1]), [5, 11, 5, 13, 10, 7, 1]),
        (dict(token_deletion=0.4), dict(deleted=[0.3, 0.5, 0.39, 1, 1, 1]), [11, 13, 10, 7, 1]),
        (dict(rotation=0.5), dict(rotation=[0.4, 0.5]), [13, 10, 7, 12, 11, 7, 1]),
        (dict(rotation=0.5), dict(rotation=[0.5, 0.5]), [*TEXT, 1]),
        (
            dict(token_masking=0.4, random_share=0.1),  # 11 ordinary ids: 0.95 is the sixth
            dict(masked=[0.3, 0.3, 1, 1, 1, 1], random=[0.89, 0.95, 0.95]),
            [5, 11, 7, 13, 10, 7, 1],
        ),
        (
            dict(token_masking=0.4, token_deletion=0.4, rotation=1.0),
            dict(masked=[0, 1, 1, 1, 1, 1], deleted=[0, 0, 1, 1, 1, 1], rotation=[0, 0.4]),
            [13, 10, 7, 5, 7, 1],  # a mask is not deleted, but goes round
        ),
    ],
)
def test_the_other_noises(settings, numbers, expected, vocabulary):
    found = inputs(Noise(**QUIET | settings), vocabulary, [TEXT], **numbers)
    assert found == [expected + [0] * (8 - len(expected))]


def test_batches_have_the_shapes_and_types_of_spec(vocabulary):
    for lengths in (LENGTHS, {'inputs': 20, 'targets': 9}, {'inputs': 9, 'targets': 20}):
        out = batch(Noise(rotation=0.5, random_share=0.5), vocabulary, [range(6, 17)], lengths)
        assert {n: (x.shape[1:], x.dtype) for n, x in out.items()} == {
            n: (shape, np.dtype(kind)) for n, (shape, kind) in Denoising().spec(lengths).items()
        }


LOUD = Noise(token_masking=0.2, token_deletion=0.2, rotation=0.5, random_share=0.3)
INSERTING = Noise(mean_span=1.0, mask_share=0.9)


@pytest.mark.parametrize(
    'settings', [Noise(), denoising.bart_released(), denoising.mbart(), LOUD, INSERTING]
)
@pytest.mark.parametrize('length', [3, 4, 9, 40])
def test_targets_are_the_text_and_eos_ends_both_sides(settings, length):
    lengths, info = {'inputs': length, 'targets': length}, fixtures.vocabulary()
    documents = [document['targets'] for document in fixtures.documents(count=100)]
    cutter = Denoising().cutter(lengths, info)
    for tokens in documents:
        cutter.add({'targets': tokens})
    chunks = cutter.take(cutter.ready())
    out = batch(settings, info, documents, lengths)
    used = out['decoder_segment_ids'] > 0
    for row, target, mask in zip(chunks.tokens, out['decoder_target_tokens'], used, strict=True):
        assert target[mask].tolist() == [*row[row > 0], 1]
    np.testing.assert_array_equal(out['decoder_loss_weights'], used)
    ends = (out['encoder_segment_ids'] > 0).sum(1) - 1
    tokens = out['encoder_input_tokens']
    assert (tokens[np.arange(len(tokens)), ends] == 1).all() and (tokens == 1).sum() == len(tokens)
    assert (tokens >= 0).all()


def long_rows(settings, rows=200, words=400):
    """Inputs and texts of rows of one-token words, without sentences."""
    texts = np.random.default_rng(0).integers(7, 56, (rows, words))
    lengths = {'inputs': words + 1, 'targets': words + 1}
    return inputs(settings, fixtures.vocabulary(), texts, lengths), texts


def test_30_percent_of_the_words_are_hidden_in_spans_of_poissons_lengths():
    """Texts count up, so that what a mask hides is seen from its neighbours."""
    info, words = fixtures.vocabulary(600), 500
    text = np.arange(7, 7 + words)
    lengths = {'inputs': words + 1, 'targets': words + 1}
    found = inputs(Noise(permute_sentences=False), info, [text] * 500, lengths)
    hidden, single = 0, []
    for row in found:
        kept = [t for t in row if t > 6]
        assert kept == sorted(kept)  # what stays is in order, once
        hidden += words - len(kept)
        ends = [6, *[t for t in row if t > 1 and t != 0], 7 + words]
        gaps = [(b, a, c) for a, b, c in zip(ends, ends[1:], ends[2:], strict=False)]
        single += [c - a - 1 for b, a, c in gaps if b == 5 and a != 5 and c != 5]
    assert hidden == 500 * 150  # ceil(0.3 * 500) in each
    assert len(single) > 18_000
    # a mask of its own is as long as any other, but for the one that is cut
    assert np.mean(single) == pytest.approx(3.0, abs=0.06)
    shares = np.bincount(single, minlength=20) / len(single)
    poisson = [0.0498, 0.1494, 0.2240, 0.2240, 0.1680, 0.1008, 0.0504]
    assert shares[:7] == pytest.approx(poisson, abs=0.01)


def test_the_share_of_masks_that_are_random_tokens():
    found, _ = long_rows(Noise(**QUIET | dict(token_masking=0.5, random_share=0.1)))
    share = np.mean([row.count(5) for row in found]) / 400
    assert share == pytest.approx(0.45, abs=0.01)
    found, texts = long_rows(Noise(**QUIET | dict(token_masking=1.0, random_share=1.0)))
    counts = np.bincount(np.array(found)[:, :-1].ravel(), minlength=64) / texts.size
    assert counts[6:56] == pytest.approx(1 / 50, abs=0.01) and counts[6:56].sum() == 1


def test_shares_of_the_options():
    found, texts = long_rows(Noise(**QUIET | dict(token_deletion=0.25)))
    assert np.count_nonzero(found) - 200 == pytest.approx(0.75 * texts.size, rel=0.01)
    found, texts = long_rows(Noise(**QUIET | dict(rotation=0.25)), rows=20_000, words=8)
    same = (np.array(found)[:, :8] == texts).all(1).mean()
    assert same == pytest.approx(0.75 + 0.25 / 8, abs=0.01)


def test_a_text_is_the_same_tokens_in_another_order_of_sentences(vocabulary):
    text, lengths = [12, 10, 7, 13, 11, 7, 14, 10, 7], {'inputs': 10, 'targets': 10}
    found = inputs(Noise(mask_share=0.0), vocabulary, [text] * 6_000, lengths)
    orders = Counter(map(tuple, found))
    assert len(orders) == 6 and (*text, 1) in orders
    assert all(n / 6_000 == pytest.approx(1 / 6, abs=0.02) for n in orders.values())


def test_special_tokens_are_kept_and_stay_in_place(vocabulary):
    """Between two that never move, all else may."""
    text = [19, 12, 11, 7, 3, 13, 10, 7, 4]
    lengths = {'inputs': 10, 'targets': 10}
    found = inputs(Noise(mask_share=0.0), vocabulary, [text] * 50, lengths)
    assert {(row[0], row[4], row[8]) for row in found} == {(19, 3, 4)}
    loud = Noise(mask_share=1.0, token_masking=0.5, token_deletion=0.5, rotation=1.0)
    for row in inputs(loud, vocabulary, [text] * 50, lengths):
        assert [t for t in row if t not in (0, 5)] == [19, 3, 4, 1]


def test_all_words_can_be_hidden(vocabulary):
    found = inputs(Noise(mask_share=1.0), vocabulary, [TEXT], lengths=[0.9999])
    assert found == [[5, 1, 0, 0, 0, 0, 0, 0]]


def test_without_noise_nothing_changes_and_nothing_is_scored(vocabulary):
    out = batch(Noise(**QUIET), vocabulary, [TEXT])
    assert out['encoder_input_tokens'].tolist() == [[*TEXT, 1, 0]]
    assert out['decoder_target_tokens'].tolist() == [[*TEXT, 1, 0]]
    assert out['decoder_loss_weights'].sum() == 0
    assert Denoising(noise=Noise(**QUIET)).draws(LENGTHS) == 0


@pytest.mark.parametrize('settings', [Noise(), LOUD])
def test_a_row_depends_on_its_own_numbers_only(settings):
    info, lengths = fixtures.vocabulary(), {'inputs': 30, 'targets': 30}
    converter, documents = Denoising(noise=settings), list(fixtures.documents(count=10))
    cutter = converter.cutter(lengths, info)
    for document in documents:
        cutter.add(document)
    rows = cutter.take(cutter.ready())
    draws = uniforms((0,), 0, len(rows.tokens), converter.draws(lengths))
    together = converter.batch(rows, lengths, info, draws)['encoder_input_tokens']
    for i in range(len(together)):
        part = type(rows)(*(x[i : i + 1] for x in rows))
        alone = converter.batch(part, lengths, info, draws[i : i + 1])['encoder_input_tokens']
        np.testing.assert_array_equal(alone[0], together[i])


def test_long_documents_are_cut_and_rows_are_of_one_document(vocabulary):
    out = batch(Noise(), vocabulary, [[10] * 8, [11] * 7, [], [12]])
    targets = out['decoder_target_tokens']  # the eighth token alone is dropped
    assert targets.tolist() == [[10] * 7 + [1], [11] * 7 + [1]]


def test_the_presets_are_the_published_values():
    assert denoising.bart() == Noise() == Noise(mask_share=0.3, mean_span=3.0, random_share=0.0)
    assert denoising.mbart() == Noise(mask_share=0.35, mean_span=3.5)
    assert denoising.bart_released() == Noise(mask_share=0.3, mean_span=3.5, random_share=0.1)
    assert denoising.denoising().converter.noise == denoising.bart()


@pytest.mark.parametrize(
    'settings, message',
    [
        ({'mask_share': 1.5}, r'mask_share=1.5 must be in \[0, 1\]; try 0.3'),
        ({'random_share': -0.1}, r'random_share=-0.1 must be in'),
        ({'token_masking': 2}, r'token_masking=2 must be in'),
        ({'token_deletion': 2}, r'token_deletion=2 must be in'),
        ({'rotation': 2}, r'rotation=2 must be in'),
        ({'mean_span': 0.5}, r'mean_span=0.5 must be in \[1, 1000\]; try 3'),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Noise(**settings)


@pytest.mark.parametrize(
    'lengths, message',
    [
        ({'inputs': 8, 'targets': 2}, "'targets'.=2 must be 3 or more"),
        ({'targets': 8}, "must have 'inputs'"),
        ({'inputs': 8, 'target': 8}, "unknown feature 'target'"),
    ],
)
def test_bad_lengths_are_refused(lengths, message):
    with pytest.raises(ConfigError, match=message):
        Denoising().check(lengths)


def test_a_vocabulary_must_have_what_the_noise_needs(vocabulary):
    without = lambda **ids: dataclasses.replace(vocabulary, **ids)
    with pytest.raises(ConfigError, match='no eos id'):
        Denoising().check(LENGTHS, without(eos=None))
    with pytest.raises(ConfigError, match='no mask id'):
        Denoising().check(LENGTHS, without(mask=None))
    Denoising(noise=Noise(mask_share=0.0)).check(LENGTHS, without(mask=None))
    endless = without(pieces=tuple('▁x' for _ in range(20)))
    with pytest.raises(ConfigError, match=r'ends a sentence; use Noise\(permute_sentences=False'):
        Denoising().check(LENGTHS, endless)
    Denoising(noise=Noise(permute_sentences=False)).check(LENGTHS, endless)


def test_the_gin_file_makes_this_objective(tmp_path):
    (tmp_path / 'run.gin').write_text(
        'from __gin__ import dynamic_registration\n'
        'from t5x_lite import experiment\n'
        'from t5x_lite import optim\n'
        'from t5x_lite.objectives import denoising\n'
        "include 'models/encoder_decoder_mini.gin'\n"
        "include 'objectives/denoising.gin'\n"
        'denoising.denoising.noise = @denoising.mbart()\n'
        'experiment.Experiment.optimizer = @optim.AdamW()\n'
        'experiment.Experiment.steps = 7\n'
        'optim.AdamW.learning_rate = 0.1\n'
        "denoising/experiment.Stream.mixture = 'any'\n"
        "denoising/experiment.Stream.lengths = {'inputs': 8, 'targets': 8}\n"
        'denoising/experiment.Stream.batch_size = 8\n'
    )
    experiment = config.load(str(tmp_path / 'run.gin')).experiment
    found = experiment.streams['denoising'].objective
    names = {'experiment': None}
    exec(printing.source(experiment), names)  # it can be saved with a run and read again
    assert names['experiment'] == experiment
    assert found == denoising.denoising(noise=denoising.mbart())


def test_it_overfits_a_batch():
    import test_step

    model = ModelConfig(vocab=64, embed=64, heads=4, mlp=128, encoder_layers=1, decoder_layers=1)
    stream = Stream(
        mixture='none',
        objective=denoising.denoising(),
        lengths={'inputs': 12, 'targets': 12},
        batch_size=16,
    )
    experiment = Experiment(
        model=model, streams={'d': stream}, optimizer=AdamW(learning_rate=3e-3, clip=1.0), steps=9
    )
    (data,) = fixtures.batches(experiment, 1)
    values, _ = test_step.run(experiment, [data] * 150)
    assert values[0]['d/nll'] > 3.5 and values[-1]['d/nll'] < 0.05
