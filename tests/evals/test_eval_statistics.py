import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infifusion.errors import DataError
from infifusion.evals.statistics import compare, mcnemar_exact, paired_bootstrap, wilson_interval


def test_wilson_interval_by_hand():
    # p = 1/2, n = 4, z = 2: scale = 1 + 4/4 = 2; centre = (1/2 + 4/8) / 2 = 1/2;
    # half = 2/2 * sqrt(1/16 + 4/64) = sqrt(1/8)
    low, high = wilson_interval(2, 4, z=2.0)
    assert low == pytest.approx(0.5 - math.sqrt(1 / 8), abs=1e-12)
    assert high == pytest.approx(0.5 + math.sqrt(1 / 8), abs=1e-12)


def test_wilson_interval_of_none_right_has_a_width_and_starts_at_zero():
    # p = 0, n = 12, z = 2: scale = 4/3; centre = (4/24) / (4/3) = 1/8;
    # half = 2 / (4/3) * sqrt(4/576) = 1/8
    low, high = wilson_interval(0, 12, z=2.0)
    assert low == 0.0
    assert high == pytest.approx(0.25, abs=1e-12)


@given(st.integers(1, 2000), st.data())
def test_wilson_interval_holds_the_share_and_mirrors(n, data):
    correct = data.draw(st.integers(0, n))
    low, high = wilson_interval(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    mirrored = wilson_interval(n - correct, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-10)


def test_wilson_interval_of_no_items_is_everything_and_nonsense_is_refused():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="correct"):
        wilson_interval(3, 2)


def test_mcnemar_by_hand():
    # 1 gained, 5 lost: 2 * (C(6,0) + C(6,1)) / 2^6 = 2 * 7 / 64
    assert mcnemar_exact(1, 5) == pytest.approx(14 / 64, abs=1e-12)
    # 0 gained, 6 lost: 2 * 1 / 64
    assert mcnemar_exact(0, 6) == pytest.approx(2 / 64, abs=1e-12)


def test_mcnemar_is_symmetric_and_one_without_a_difference():
    assert mcnemar_exact(2, 9) == mcnemar_exact(9, 2)
    assert mcnemar_exact(4, 4) == 1.0
    assert mcnemar_exact(0, 0) == 1.0


def test_paired_bootstrap_agrees_with_resampling_the_items_themselves():
    change = np.array([1] * 30 + [-1] * 10 + [0] * 60)
    drawn = np.random.default_rng(1).choice(change, size=(20_000, 100)).mean(axis=1)
    expected = np.quantile(drawn, [0.025, 0.975])
    found = paired_bootstrap(30, 10, 100, generator=np.random.default_rng(2), resamples=20_000)
    # steps of 1/100 in the difference; the two are independent draws
    assert found == pytest.approx(tuple(expected), abs=0.011)
    # and near the normal approximation: 0.2 +- 1.96 * sqrt((0.4 - 0.04) / 100) = 0.2 +- 0.1176
    assert found == pytest.approx((0.0824, 0.3176), abs=0.015)


def test_paired_bootstrap_of_equal_models_is_a_point():
    assert paired_bootstrap(0, 0, 5, generator=np.random.default_rng(0)) == (0.0, 0.0)


def _items(pattern: str) -> list[dict]:
    return [{"id": f"item-{at}", "correct": mark == "1"} for at, mark in enumerate(pattern)]


def test_compare_counts_b_minus_a_whatever_the_order_of_the_items():
    a, b = _items("1100000000"), _items("1011110000")
    # b gains items 2 to 5 and loses item 1: (4 - 1) / 10; 2 * (1 + 5) / 32 = 12/32
    result = compare(a, b[::-1])
    assert (result["gained"], result["lost"], result["n"]) == (4, 1, 10)
    assert result["difference"] == pytest.approx(0.3)
    assert result["p_value"] == pytest.approx(12 / 32)
    assert result["ci95"][0] < 0.3 < result["ci95"][1]


def test_compare_changes_sign_when_the_models_swap():
    a, b = _items("110010"), _items("011111")
    assert compare(a, b)["difference"] == -compare(b, a)["difference"] == pytest.approx(2 / 6)
    assert compare(a, b)["p_value"] == compare(b, a)["p_value"]


def test_compare_gives_the_same_interval_twice():
    a, b = _items("1010101010"), _items("0110111011")
    assert compare(a, b) == compare(a, b)


def test_compare_refuses_other_items_repeated_ids_and_none():
    a = _items("101")
    with pytest.raises(DataError, match="item-2"):
        compare(a, a[:2])
    with pytest.raises(DataError, match="twice"):
        compare(a, [*a, a[0]])
    with pytest.raises(DataError, match="no items"):
        compare([], [])
