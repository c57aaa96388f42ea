"""Noise: the published counts, uniform choices, and rows that depend on their numbers only."""
# SPDX-License-Identifier: Apache-2.0

from collections import Counter

import numpy as np
import pytest

from t5x_lite.data import noise
from t5x_lite.data.randomness import uniforms


def test_halves_round_to_even():
    np.testing.assert_array_equal(noise.rounded([0.5, 1.5, 2.5, 28.5, 2.51]), [0, 2, 2, 28, 3])


@pytest.mark.parametrize(
    'inputs, density, mean, raw, targets',
    [
        (512, 0.15, 3.0, 568, 114),  # T5
        (1024, 0.15, 3.0, 1137, 229),
        (512, 0.5, 3.0, 766, 512),
        (512, 0.0, 3.0, 511, 1),
        (3, 0.15, 3.0, 2, 3),
    ],
)
def test_raw_lengths_are_those_of_t5(inputs, density, mean, raw, targets):
    assert noise.raw_length(inputs, density, mean) == (raw, targets)


def counts(n, density, mean):
    """Noise tokens and spans by the published equations, in Python's own rounding."""
    noisy = min(max(round(n * density), 1), n - 1)
    return noisy, min(max(round(noisy / mean), 1), min(noisy, n - noisy))


def sizes(n, density, mean):
    noisy, spans = counts(n, density, mean)
    return n - noisy + spans + 1, noisy + spans + 1


@pytest.mark.parametrize('density, mean', [(0.15, 3.0), (0.5, 8.0), (0.15, 64.0), (0.9, 1.0)])
def test_raw_length_is_where_counting_up_stops(density, mean):
    for length in range(3, 200):
        n = length - 1
        while sizes(n + 1, density, mean)[0] <= length:
            n += 1
        inputs, targets = sizes(n, density, mean)
        if density == 0.5 and targets > inputs:
            n -= 1
        assert noise.raw_length(length, density, mean) == (n, sizes(n, density, mean)[1])


@pytest.mark.parametrize('density, mean', [(0.15, 3.0), (0.5, 3.0), (0.5, 64.0), (0.85, 1.0)])
def test_masks_have_the_equations_counts_for_every_length(density, mean):
    lengths = np.arange(2, 701)
    numbers = uniforms((7,), 0, len(lengths), 700)
    masks = noise.span_mask(lengths, 700, density, mean, numbers)
    for n, mask in zip(lengths.tolist(), masks.astype(int), strict=True):
        assert (mask.sum(), (np.diff(mask) == 1).sum()) == counts(n, density, mean)
        assert mask[0] == 0 and mask[n - 1] == 1 and not mask[n:].any()


def test_span_masks_are_uniform_over_all_compositions():
    # 8 tokens, 4 of them noise in 2 spans: 3 ways to cut the noise times 3 to cut the text
    rows = 18_000
    masks = noise.span_mask(np.full(rows, 8), 8, 0.5, 2.0, uniforms((1,), 0, rows, 8))
    found = Counter(map(bytes, masks))
    assert len(found) == 9
    assert all(abs(count / rows - 1 / 9) < 0.01 for count in found.values())


def test_a_rows_mask_depends_on_its_own_numbers_only():
    numbers = uniforms((3,), 0, 6, 60)
    lengths = np.array([60, 2, 31, 60, 59, 1])
    together = noise.span_mask(lengths, 60, 0.15, 3.0, numbers)
    for i in range(6):
        alone = noise.span_mask(lengths[i : i + 1], 60, 0.15, 3.0, numbers[i : i + 1])
        np.testing.assert_array_equal(alone[0], together[i])
    assert not together[5].any()  # one token: nothing to hide it in


def test_choices_are_exact_in_number_and_uniform():
    chosen = noise.choose(uniforms((5,), 0, 20_000, 5), np.full(20_000, 2))
    assert (chosen.sum(1) == 2).all()
    pairs = Counter(map(bytes, chosen))
    assert len(pairs) == 10
    assert all(abs(count / 20_000 - 0.1) < 0.01 for count in pairs.values())
    assert not noise.choose(np.zeros((1, 4)), np.array([0])).any()


@pytest.mark.parametrize(
    'length, rate, most, count',
    [
        (128, 0.15, 20, 19),
        (512, 0.15, None, 77),
        (512, 0.15, 76, 76),
        (10, 0.15, None, 2),  # 1.5 goes to the even 2
        (30, 0.15, None, 4),  # and 4.5 to 4
        (3, 0.15, None, 1),
        (512, 0.0, None, 0),
    ],
)
def test_prediction_counts(length, rate, most, count):
    assert noise.prediction_counts(np.array([length]), rate, most).tolist() == [count]


def test_chosen_tokens_are_masked_replaced_or_kept():
    out = noise.replace_chosen(
        np.array([[10, 11, 12, 13, 14]], np.int32),
        np.array([[True, True, True, True, False]]),
        np.array([[0.79, 0.8, 0.8999, 0.9, 0.1]]),
        mask=5,
        ordinary=np.array([6, 7, 8]),
        mask_share=0.8,
        random_share=0.1,
    )
    np.testing.assert_array_equal(out, [[5, 6, 8, 13, 14]])


def test_spans_become_sentinels_on_both_sides():
    tokens = np.array([[11, 12, 13, 14, 15, 16], [21, 22, 23, 24, 25, 0]])
    mask = np.array([[0, 1, 1, 0, 0, 1], [1, 0, 0, 1, 1, 0]], bool)  # the second starts with noise
    inputs, targets = noise.split_spans(tokens, mask, np.array([6, 5]), (99, 98), (6, 6))
    np.testing.assert_array_equal(inputs[0], [[11, 99, 14, 15, 98, 0], [99, 22, 23, 98, 0, 0]])
    np.testing.assert_array_equal(targets[0], [[99, 12, 13, 98, 16, 0], [99, 21, 98, 24, 25, 0]])
    np.testing.assert_array_equal(inputs[1], [5, 4])
    np.testing.assert_array_equal(targets[1], [5, 5])


def test_a_rows_numbers_are_the_same_in_any_batching():
    whole = uniforms((0, 4, 2), 0, 10, 7)
    parts = [uniforms((0, 4, 2), first, rows, 7) for first, rows in ((0, 3), (3, 1), (4, 6))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert uniforms((0, 4, 2), 5, 3, 0).shape == (3, 0)
    assert not np.array_equal(uniforms((0, 4, 3), 0, 10, 7), whole)
    assert len(np.unique(whole)) == whole.size


def test_chosen_places_of_rows_with_none_and_with_all():
    chosen = np.array([[0, 0, 0], [1, 1, 1], [0, 1, 0]], bool)
    assert noise.chosen_places(chosen, 3).tolist() == [[0, 0, 0], [0, 1, 2], [1, 0, 0]]
