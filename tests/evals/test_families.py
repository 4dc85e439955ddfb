"""Several seeds, many comparisons."""

from __future__ import annotations

import numpy as np
import pytest

from infifusion.evals.families import bootstrap_over_seeds, difference_of, holm, mean_and_error
from infifusion.evals.statistics import paired_bootstrap


def test_holm_multiplies_the_ith_smallest_and_never_goes_down() -> None:
    # Sorted: 0.01 x 4 = 0.04, 0.02 x 3 = 0.06, 0.03 x 2 = 0.06, 0.4 x 1 = 0.4.
    assert holm([0.4, 0.01, 0.03, 0.02]) == pytest.approx([0.4, 0.04, 0.06, 0.06])
    # 0.04 x 2 = 0.08 is carried over 0.05 x 1.
    assert holm([0.05, 0.04]) == pytest.approx([0.08, 0.08])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == [] and holm([0.3]) == [0.3]


def test_the_error_of_a_mean_is_that_of_the_sample() -> None:
    # s^2 = (1 + 0 + 1) / 2 = 1, error sqrt(1 / 3).
    assert mean_and_error([1.0, 2.0, 3.0]) == pytest.approx((2.0, 3**-0.5))
    assert mean_and_error([5.0]) == (5.0, None)
    with pytest.raises(ValueError, match="at least one"):
        mean_and_error([])


def test_seeds_and_tasks_count_alike_however_many_items_they_have() -> None:
    seeds = [[(3, 1, 10), (0, 50, 100)], [(0, 0, 10), (10, 0, 100)]]
    # seed 1: (0.2 - 0.5) / 2 = -0.15; seed 2: (0 + 0.1) / 2 = 0.05.
    assert difference_of(seeds) == pytest.approx(-0.05)


def test_with_one_seed_and_task_the_interval_is_the_paired_bootstrap() -> None:
    # The same distribution, so the quantiles agree to a few steps of 1/n.
    ours = bootstrap_over_seeds(
        [[(30, 10, 200)]], generator=np.random.default_rng(0), resamples=40_000
    )
    plain = paired_bootstrap(30, 10, 200, generator=np.random.default_rng(1), resamples=40_000)
    assert ours == pytest.approx(plain, abs=0.006)


def test_seeds_that_differ_widen_the_interval() -> None:
    alike = [[(20, 10, 100)]] * 4
    apart = [[(35, 0, 100)], [(5, 20, 100)], [(35, 0, 100)], [(5, 20, 100)]]
    spans = []
    for seeds in (alike, apart):
        low, high = bootstrap_over_seeds(seeds, generator=np.random.default_rng(0))
        assert difference_of(seeds) == pytest.approx(0.1)
        assert low < 0.1 < high
        spans.append(high - low)
    # alike: 2 x 1.96 x sqrt((0.3 - 0.01) / 400) = 0.106; apart: seeds add variance 0.25^2 / 4.
    assert spans[0] == pytest.approx(0.106, abs=0.012)
    assert spans[1] > 0.4


def test_counts_that_cannot_be_are_refused() -> None:
    for wrong in ([], [[(1, 0, 0)]], [[(6, 5, 10)]]):
        with pytest.raises(ValueError, match="counts"):
            bootstrap_over_seeds(wrong, generator=np.random.default_rng(0))
