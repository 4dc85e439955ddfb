"""The compiled loops against plain NumPy and against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from infifusion.merge.blocks import adding, draws, stored, sums
from infifusion.merge.blocks.blocks import Block, Blocks, NotFinite, Raw
from infifusion.merge.blocks.counts import between
from infifusion.merge.blocks.select import KEEP_NONE
from infifusion.merge.blocks.stored import encode

SPECIAL = [0.0, -0.0, 1.0, -1.5, 3.3895314e38, 1e-40, 65504.0, np.inf, -np.inf, np.nan]


def test_bfloat16_is_rounded_to_nearest_even_as_torch_does():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 200_000, dtype=np.uint64).astype(np.uint32)
    values = np.concatenate([bits.view(np.float32), np.array(SPECIAL, np.float32)])
    expected = torch.from_numpy(values).bfloat16()
    found = torch.from_numpy(encode(values, "BF16")).view(torch.bfloat16)
    number = torch.from_numpy(~np.isnan(values))
    assert torch.equal(found[number].view(torch.int16), expected[number].view(torch.int16))
    assert torch.isnan(found[~number]).all()


def test_every_bfloat16_is_decoded_exactly():
    raw = np.arange(2**16, dtype=np.uint16)
    out = np.empty(2**16, np.float32)
    bad = stored.decode_bfloat16(raw, out.view(np.uint32))
    expected = torch.from_numpy(raw).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(out, expected)
    assert bad == np.count_nonzero(~np.isfinite(expected))


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 1000, 5000])
def test_sums_are_those_of_float64(size):
    rng = np.random.default_rng(size)
    a, b = rng.standard_normal((2, size)).astype(np.float32)
    assert sums.sum_of_products(a, b) == pytest.approx(
        float(a.astype(np.float64) @ b.astype(np.float64)), abs=1e-10
    )
    assert sums.sum_of_magnitudes(a) == pytest.approx(
        float(np.abs(a.astype(np.float64)).sum()), abs=1e-10
    )
    out = np.zeros((2, 2))
    sums.gram(np.stack([a, b]), out)
    assert out[0, 1] == out[1, 0] == sums.sum_of_products(a, b)


@pytest.mark.parametrize("models", [1, 2, 3, 8])
def test_variance_is_that_of_float64_and_exactly_zero_for_equal_rows(models):
    rng = np.random.default_rng(models)
    rows = rng.standard_normal((models, 2500)).astype(np.float32)
    rows[:, ::5] = rows[0, ::5]
    out = np.empty(2500, np.float32)
    sums.variance(rows, out)
    np.testing.assert_allclose(out, rows.astype(np.float64).var(axis=0), rtol=2e-6, atol=1e-12)
    assert (out[::5] == 0).all()


def test_moments_of_the_root_by_hand():
    # v = 0, 1, 4, 9: roots 1, 2, 3 about 2: -1, 0, 1. Sums 0, 2, 0.
    total = np.zeros(4)
    sums.root_moments(np.array([0, 1, 4, 9], np.float32), 2.0, total)
    assert total.tolist() == [3, 0, 2, 0]


def test_the_mean_of_what_agrees_by_hand():
    # Position 0: votes 1 + 2 - 2 = 1 elects plus: (1*1 + 1*2) / 2 = 1.5, base 10: 11.5.
    # Position 1: 1 - 4 + 0 elects minus: -4 / 1. Position 2: sum 0 elects plus: 3 / 1.
    rows = np.array([[1, 1, 3], [2, -4, -3], [-2, 0, 0]], np.float32)
    base, out, ones = np.full(3, 10, np.float32), np.empty(3, np.float32), np.ones(3, np.float32)
    adding.add_agreeing(base, rows, ones, ones, True, np.float32(1), out)
    assert out.tolist() == [11.5, 6.0, 13.0]
    adding.add_agreeing(base, rows, ones, ones, False, np.float32(0.5), out)
    assert out.tolist() == [11.5, 8.0, 11.5]


def test_draws_are_uniform_and_depend_on_seed_and_position_alone():
    whole, part = np.empty(100_000, np.float32), np.empty(1000, np.float32)
    draws.draw(np.uint64(7), 0, whole)
    draws.draw(np.uint64(7), 5000, part)
    np.testing.assert_array_equal(part, whole[5000:6000])
    assert whole.min() >= 0 and whole.max() < 1
    # Standard error of the mean: 1 / sqrt(12 * 100000) = .0009; of a tenth's share: .00095.
    assert abs(whole.mean() - 0.5) < 0.004
    shares = np.histogram(whole, 10, (0, 1))[0] / len(whole)
    assert np.abs(shares - 0.1).max() < 0.004
    other = np.empty_like(whole)
    draws.draw(np.uint64(8), 0, other)
    assert abs(np.corrcoef(whole, other)[0, 1]) < 0.015
    assert abs(np.corrcoef(whole[1:], whole[:-1])[0, 1]) < 0.015


def test_chances_by_rank_by_hand():
    # Magnitudes 3, 1, 2: ranks 2, 0, 1, chances .2 + .3 r: .8, .2, .5.
    row = np.array([[-3, 1, 2]], np.float32)
    key = np.empty((1, 3), np.uint64)
    draws.rank_keys(row, key)
    key.sort(axis=1)
    drawn = np.array([[0.79, 0.21, 0.49]], np.float32)
    kept = row.copy()
    draws.keep_by_rank(key, drawn, kept, np.float32(0.2), np.float32(0.8), True)
    np.testing.assert_allclose(kept, [[-3 / 0.8, 0, 2 / 0.5]], rtol=1e-6)
    draws.keep_by_rank(key, drawn, row, np.float32(0.2), np.float32(0.8), False)
    assert row.tolist() == [[-3, 0, 2]]


def test_both_ends_of_a_window_belong_to_it():
    values = np.array([1, -2, 3, -4, 5, 2], np.float32)
    low, high = (int(np.float32(value).view(np.uint32)) for value in (2, 4))
    expected = np.array([2, 3, 4, 2], np.float32).view(np.uint32)
    np.testing.assert_array_equal(between(values, low, high), expected)
    everything = between(values, 0, KEEP_NONE - 1)
    np.testing.assert_array_equal(everything, np.abs(values).view(np.uint32))


def test_overlaps_by_hand():
    # epsilon 1: position 0 changed by both, 1 by the second alone, 2 by none.
    rows = np.array([[2, 0.5, 0.5], [4, 3, -0.5]], np.float32)
    found = np.zeros((2, 2))
    adding.count_overlaps(rows, np.float32(1), found)
    assert found.tolist() == [[1, 1], [0, 1]]
    out = np.empty(3, np.float32)
    alone = np.array([1, 2], np.float32)
    adding.add_overlapping(np.zeros(3, np.float32), rows, np.float32(1), alone, out)
    assert out.tolist() == [3, 6, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
def test_what_is_not_finite_is_found_in_any_dtype(bad, dtype):
    def raw(values: list[float]) -> Raw:
        array = np.array(values, np.float32)
        kinds = {"F16": np.float16, "F64": np.float64, "F32": np.float32}
        return Raw(encode(array, dtype) if dtype == "BF16" else array.astype(kinds[dtype]), dtype)

    good, broken = raw([1.0, 2.0]), raw([1.0, bad])
    with pytest.raises(NotFinite) as caught:
        Block(Blocks(good, [good, broken], (2,)), 0, 0, 2).delta_SP.sum()
    assert caught.value.source == 2
    with pytest.raises(NotFinite) as caught:
        Block(Blocks(broken, [good], (2,)), 0, 0, 2).base_P.sum()
    assert caught.value.source == 0
    allowed = Blocks(good, [broken], (2,), allow_not_finite=True)
    assert not np.isfinite(allowed.block(0).model_SP[0, 1])
