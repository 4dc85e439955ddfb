"""Comparisons over several seeds, and corrections where many are made at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from infifusion.evals.statistics import RESAMPLES

# (gained, lost, n) of one task with one seed: items that only b has right, that only a has, all.
Counts = tuple[int, int, int]


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error, s / sqrt(n) with n - 1 in s; no error for a single value.

    Raises ValueError for no value at all.
    """
    if not values:
        raise ValueError("Expected at least one value, found none.")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    spread = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(spread / len(values))


def difference_of(seeds: Sequence[Sequence[Counts]]) -> float:
    """Mean over seeds of the mean over tasks of (gained - lost) / n."""
    return float(np.mean([np.mean([(g - k) / n for g, k, n in tasks]) for tasks in seeds]))


def bootstrap_over_seeds(
    seeds: Sequence[Sequence[Counts]],
    *,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """95 % percentile interval of `difference_of` when seeds and items are both drawn anew.

    seeds[i][t] are the counts of task t with seed i; every seed has the same tasks. A resample
    draws as many seeds as there are, with replacement, and for each of them the items of every
    task, which is a draw of (gained, lost, same) from a multinomial. With one seed only the items
    vary; with few the interval is somewhat too short, as every percentile bootstrap of few values.
    Raises ValueError where a task has no items.
    """
    if not seeds or any(n <= 0 or g + k > n for tasks in seeds for g, k, n in tasks):
        raise ValueError(f"Expected counts with 0 < gained + lost <= n, found {seeds}.")
    totals = np.zeros(resamples)
    for _ in range(len(seeds)):
        chosen = generator.integers(len(seeds), size=resamples)
        for number, tasks in enumerate(seeds):
            here = chosen == number
            for gained, lost, n in tasks:
                shares = np.array([gained, lost, n - gained - lost]) / n
                drawn = generator.multinomial(n, shares, size=int(here.sum()))
                totals[here] += (drawn[:, 0] - drawn[:, 1]) / n / len(tasks)
    low, high = np.quantile(totals / len(seeds), [0.025, 0.975])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in their order (Holm 1979).

    The i-th smallest of m is multiplied by m - i + 1 (i from 1), made no smaller than the one
    before it, and cut at 1. Rejecting those under alpha keeps the chance of any false rejection
    under alpha, however the tests depend on one another.
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, (len(p_values) - place) * p_values[index])
        corrected[index] = min(1.0, highest)
    return corrected
