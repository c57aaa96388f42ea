"""Crops of passages: where they lie, their statistics, and what is refused."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import numpy as np
import pytest

from t5x_lite.data import packing, randomness
from t5x_lite.errors import ConfigError
from t5x_lite.objectives.crops import Crops, crops

LENGTHS = {'targets': 22}
N = 4_000


def rows(size: int, count: int = N) -> packing.Rows:
    """Passages whose token at place p is 100 + p, so that a crop tells where it was taken."""
    segments, positions = packing.extents(np.full(count, size), 64)
    return packing.Rows((100 + positions) * segments, segments, positions)


def places(converter, size, vocabulary):
    """(begin, length) [N, 2] each, of the crops of N passages of `size` tokens."""
    uniforms = randomness.uniforms((1,), 0, N, converter.draws(LENGTHS))
    batch = converter.batch(rows(size), LENGTHS, vocabulary, uniforms)
    begins, lengths = [], []
    for side in ('left_encoder', 'right_encoder'):
        tokens, used = batch[f'{side}_input_tokens'], batch[f'{side}_segment_ids']
        length = used.sum(1) - 2
        np.testing.assert_array_equal(tokens[:, 0], vocabulary.cls)
        np.testing.assert_array_equal(tokens[np.arange(N), length + 1], vocabulary.sep)
        inner = (np.arange(20) < length[:, None]) * 1
        np.testing.assert_array_equal(
            tokens[:, 1:-1] * inner, (tokens[:, 1:2] + np.arange(20)) * inner
        )
        begins.append(tokens[:, 1] - 100)
        lengths.append(length)
    found = {name: (x.shape[1:], x.dtype) for name, x in batch.items()}
    assert found == converter.spec(LENGTHS)
    return np.stack(begins, 1), np.stack(lengths, 1)


def test_independent_crops_have_any_length_and_place(vocabulary):
    begin, length = places(Crops(passage=64, deletion=0), 50, vocabulary)
    assert (length.min(), length.max()) == (8, 20)
    assert (begin.min(), (begin + length).max()) == (0, 50)
    assert abs(length.mean() - 14) < 0.2  # uniform from 8 to 20: a deviation of 3.7 / sqrt(8,000)
    middle = begin + length / 2
    assert abs(np.corrcoef(middle.T)[0, 1]) < 0.05
    overlap = np.minimum(*(begin + length).T) > np.maximum(*begin.T)
    assert 0.3 < overlap.mean() < 0.7


def test_crops_apart_touch_in_either_order(vocabulary):
    begin, length = places(Crops(passage=64, apart=True, deletion=0), 50, vocabulary)
    ends = begin + length
    second_right = ends[:, 0] == begin[:, 1]
    second_left = ends[:, 1] == begin[:, 0]
    assert (second_right ^ second_left).all() and abs(second_right.mean() - 0.5) < 0.04
    assert (begin.min(), ends.max(), length.min(), length.max()) == (0, 50, 8, 20)


@pytest.mark.parametrize('apart', [False, True])
def test_the_shortest_passage_gives_the_shortest_crops(vocabulary, apart):
    begin, length = places(Crops(passage=64, apart=apart, deletion=0), 16, vocabulary)
    assert begin.min() == 0 and (begin + length).max() == 16
    assert length.max() == (8 if apart else 16)


def test_a_rest_too_short_for_two_crops_is_dropped(vocabulary):
    cutter = Crops(passage=32).cutter(LENGTHS, vocabulary)
    for size in (32 + 15, 32 + 16, 15):
        cutter.add({'targets': np.arange(100, 100 + size)})
    assert cutter.ready() == 3 and cutter.dropped == 2
    np.testing.assert_array_equal(cutter.take(3).lengths, [32, 32, 16])


def test_a_share_of_the_tokens_is_left_out_in_their_order(vocabulary):
    converter = Crops(passage=64, deletion=0.25)
    uniforms = randomness.uniforms((1,), 0, N, converter.draws(LENGTHS))
    batch = converter.batch(rows(50), LENGTHS, vocabulary, uniforms)
    whole = dataclasses.replace(converter, deletion=0).batch(
        rows(50), LENGTHS, vocabulary, uniforms
    )
    counts = {}
    for name in ('left_encoder', 'right_encoder'):
        used = batch[f'{name}_segment_ids'].sum(1) - 2
        counts[name] = used.sum() / (whole[f'{name}_segment_ids'].sum(1) - 2).sum()
        tokens = batch[f'{name}_input_tokens'][:, 1:-1]
        inner = np.arange(19) < used[:, None] - 1
        assert (np.diff(tokens, axis=1)[inner] > 0).all() and used.min() >= 1
    np.testing.assert_allclose(list(counts.values()), 0.75, atol=0.01)


def test_a_crop_keeps_one_token_at_least(vocabulary):
    converter = Crops(passage=64, deletion=1.0)
    batch = converter.batch(rows(50), LENGTHS, vocabulary, np.full((N, 45), 0.5))
    assert (batch['right_encoder_segment_ids'].sum(1) == 3).all()


def test_both_directions_count_and_batches_meet():
    (term,) = crops(pool=None).terms.values()
    assert term.batchwide and term.loss.directions == 'mean'
    assert term.loss.views == ('left_encoder_hidden', 'right_encoder_hidden')


def test_refused(vocabulary):
    with pytest.raises(ConfigError, match='shortest=40 must be from 1 to half of passage=64'):
        Crops(passage=64, shortest=40)
    with pytest.raises(ConfigError, match=r"lengths\['targets'\]=9 must be 10 or more"):
        Crops().check({'targets': 9})
    with pytest.raises(ConfigError, match=r'deletion=2 must be in \[0, 1\]'):
        Crops(deletion=2)
    with pytest.raises(ConfigError, match='no cls id'):
        Crops().check(LENGTHS, dataclasses.replace(vocabulary, cls=None))
