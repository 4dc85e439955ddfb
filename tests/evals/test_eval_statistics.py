import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infifusion.errors import DataError
from infifusion.evals.statistics import (
    compare,
    majority_at,
    mcnemar_exact,
    paired_bootstrap,
    pass_at,
    share_interval,
    sign_flips,
    wilson_interval,
)


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


def test_pass_at_k_by_hand_and_over_all_choices():
    # 2 of 5 right: 1 - C(3, 2) / C(5, 2) = 1 - 3/10
    assert pass_at(2, 2, 5) == pytest.approx(0.7, abs=1e-12)
    assert [pass_at(k, 0, 4) for k in (1, 4)] == [0.0, 0.0]
    assert [pass_at(k, 1, 4) for k in (1, 2, 4)] == pytest.approx([0.25, 0.5, 1.0])
    for samples, correct, k in [(6, 2, 3), (7, 7, 2), (5, 4, 2)]:
        drawn = list(combinations([1] * correct + [0] * (samples - correct), k))
        expected = sum(any(choice) for choice in drawn) / len(drawn)
        assert pass_at(k, correct, samples) == pytest.approx(expected, abs=1e-12)
    for wrong in [(0, 1, 2), (3, 1, 2), (1, 3, 2), (1, -1, 2)]:
        with pytest.raises(ValueError, match="samples"):
            pass_at(*wrong)


def test_majority_at_k_by_hand():
    # Answers a a b of three: a wins at k = 3; at k = 2 aa (1 of 3) wins, ab (2 of 3) is a lot.
    votes = [(2, True), (1, False)]
    assert majority_at(3, votes, 3) == 1.0
    assert majority_at(2, votes, 3) == pytest.approx(1 / 3 + 2 / 3 / 2)
    assert majority_at(1, votes, 3) == pytest.approx(2 / 3)
    # One right answer and three samples that gave none: it wins where it is drawn.
    assert majority_at(2, [(1, True)], 4) == pytest.approx(0.5)
    assert majority_at(4, [], 4) == 0.0
    with pytest.raises(ValueError, match="votes"):
        majority_at(2, [(5, True)], 4)


@given(
    st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=3), st.integers(0, 2), st.data()
)
def test_majority_at_k_is_the_mean_over_all_choices(votes, silent, data):
    samples = sum(count for count, _ in votes) + silent
    if not samples:
        return
    k = data.draw(st.integers(1, samples))
    answers = [at for at, (count, _) in enumerate(votes) for _ in range(count)] + [None] * silent
    total = 0.0
    for choice in combinations(answers, k):
        counts = Counter(one for one in choice if one is not None)
        best = [at for at, count in counts.items() if count == max(counts.values())]
        total += sum(votes[at][1] for at in best) / len(best) if best else 0.0
    assert majority_at(k, votes, samples) == pytest.approx(total / math.comb(samples, k), abs=1e-9)


def test_one_sample_per_item_has_wilson_s_interval():
    values = [1.0] * 7 + [0.0] * 13
    assert share_interval(values, 1) == wilson_interval(7, 20)
    assert share_interval([], 1) == (0.0, 1.0)


def test_samples_that_agree_within_their_items_are_worth_one_each():
    # Shares of 0 and 1 alone: s^2 / n = p (1 - p) / (n - 1), so n - 1 draws, held at n.
    values = [1.0] * 7 + [0.0] * 13
    assert share_interval(values, 8) == wilson_interval(7, 20)
    # All items alike: nothing says that samples of one item hang together, so all draws count.
    assert share_interval([0.5] * 20, 8) == wilson_interval(80, 160)
    low, high = share_interval([0.0] * 20, 8)
    assert (low, high) == wilson_interval(0, 20), "where nothing is right, items count"


def test_clustered_intervals_hold_the_truth_as_often_as_they_say():
    # Items of very different difficulty, 8 samples each: the naive interval of all draws would
    # hold the truth far less often.
    generator = np.random.default_rng(0)
    held = naive = 0
    for _ in range(400):
        difficulty = generator.beta(0.3, 0.5, size=60)
        shares = generator.binomial(8, difficulty) / 8
        low, high = share_interval(shares.tolist(), 8)
        held += low <= 0.375 <= high  # 0.3 / (0.3 + 0.5)
        low, high = wilson_interval(round(shares.sum() * 8), 480)
        naive += low <= 0.375 <= high
    assert 0.92 <= held / 400 <= 0.98
    assert naive / 400 < 0.7


def test_sign_flips_agree_with_mcnemar_and_know_the_edges():
    differences = [1.0] * 12 + [-1.0] * 4 + [0.0] * 20
    found = sign_flips(differences, generator=np.random.default_rng(0), resamples=40_000)
    assert found == pytest.approx(mcnemar_exact(12, 4), abs=0.005)
    assert sign_flips([0.0, 0.0], generator=np.random.default_rng(0)) == 1.0


def test_models_with_samples_are_compared_by_their_shares():
    a = [{"id": str(at), "correct": True, "share": share} for at, share in enumerate([0.5, 0.25])]
    b = [{"id": str(at), "correct": True, "share": share} for at, share in enumerate([0.75, 0.25])]
    result = compare(a, b)
    assert result["difference"] == pytest.approx(0.125)
    assert (result["gained"], result["lost"], result["n"]) == (1, 0, 2)
    assert 0.0 <= result["ci95"][0] <= 0.125 <= result["ci95"][1] <= 0.25
    assert compare(b, a)["difference"] == pytest.approx(-0.125)
