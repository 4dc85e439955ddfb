"""How sure an accuracy is, and whether two models differ on the same items."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from scipy.stats import binomtest

from infifusion.errors import DataError

Z95 = 1.959963984540054  # the 97.5 % point of the standard normal distribution
RESAMPLES = 10_000


class Comparison(TypedDict):
    """Model b against model a on the same items; differences are shares, not per cent."""

    n: int
    difference: float
    ci95: list[float]
    p_value: float
    gained: int
    lost: int


def wilson_interval(correct: int, n: int, *, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927).

        centre = (p + z^2 / 2n) / (1 + z^2 / n)
        half   = z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2)

    Unlike p +- z * s it stays inside [0, 1] and has a width at p = 0 and p = 1. No items at all
    give (0, 1): nothing is known. Raises ValueError unless 0 <= correct <= n.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"Expected 0 <= correct <= n, found correct = {correct}, n = {n}.")
    return (0.0, 1.0) if n == 0 else wilson_of(correct / n, n, z=z)


def wilson_of(share: float, n: float, *, z: float = Z95) -> tuple[float, float]:
    """Wilson's interval of a share of n draws, which need not be a whole number."""
    scale = 1 + z**2 / n
    centre = (share + z**2 / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low = 0.0 if share == 0 else centre - half
    high = 1.0 if share == 1 else centre + half
    return low, high


def share_interval(values: Sequence[float], samples: int) -> tuple[float, float]:
    """95 % interval of the mean of one value in [0, 1] per item, each made of `samples` draws.

    Wilson's interval with the effective number of draws, mean (1 - mean) / (s^2 / n) where s^2 is
    the variance of the items' values (n - 1 in it): samples of an item are no independent draws,
    items are. It lies between the number of items and that of all draws. For one draw per item, 0
    or 1, it is Wilson's interval of the items. No items: (0, 1).
    """
    n = len(values)
    if n == 0:
        return 0.0, 1.0
    mean = min(1.0, max(0.0, math.fsum(values) / n))
    variance = math.fsum((value - mean) ** 2 for value in values) / max(n - 1, 1) / n
    draws, most = float(n), float(n * samples)
    if samples > 1 and 0 < mean < 1:
        draws = min(max(mean * (1 - mean) / variance, n), most) if variance else most
    return wilson_of(mean, draws)


def pass_at(k: int, correct: int, samples: int) -> float:
    """The chance that one of k samples is right: 1 - C(samples - correct, k) / C(samples, k).

    Unbiased, unlike 1 - (1 - correct / samples)^k (Chen et al. 2021, arXiv 2107.03374). Raises
    ValueError unless 1 <= k <= samples and 0 <= correct <= samples.
    """
    if not (1 <= k <= samples and 0 <= correct <= samples):
        raise ValueError(f"Expected k and correct of {samples} samples, found {k} and {correct}.")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def majority_at(k: int, votes: Sequence[tuple[int, bool]], samples: int) -> float:
    """The chance that the most frequent answer of k of the samples is right.

    votes: of each distinct answer how many samples gave it, and whether it is right; the others of
    the samples gave none. Over all C(samples, k) choices, each counted; answers that are equally
    frequent are drawn by lot. Raises ValueError for impossible numbers.
    """
    if not 1 <= k <= samples or sum(count for count, _ in votes) > samples:
        raise ValueError(f"Expected k and votes of {samples} samples, found {k} and {votes}.")
    silent = samples - sum(count for count, _ in votes)
    right = 0.0
    for place, (count, good) in enumerate(votes):
        others = [other for at, (other, _) in enumerate(votes) if at != place]
        for top in range(1, min(count, k) + 1) if good else ():
            # ways[drawn, ties]: choices of the others, none of them more frequent than top.
            ways = {(drawn, 0): math.comb(silent, drawn) for drawn in range(min(silent, k) + 1)}
            for other in others:
                more: dict[tuple[int, int], int] = {}
                for (drawn, ties), number in ways.items():
                    for here in range(min(other, top, k - drawn) + 1):
                        key = drawn + here, ties + (here == top)
                        more[key] = more.get(key, 0) + number * math.comb(other, here)
                ways = more
            lots = sum(n / (ties + 1) for (drawn, ties), n in ways.items() if drawn == k - top)
            right += math.comb(count, top) * lots
    return right / math.comb(samples, k)


def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided p-value of McNemar's exact test (McNemar 1947).

    Items on which the models agree say nothing; of the gained + lost others, each is as likely
    gained as lost if the models are equally good: 2 * P(Binomial(gained + lost, 1/2) <=
    min(gained, lost)), at most 1. No such items: 1.
    """
    if gained < 0 or lost < 0:
        raise ValueError(f"Expected counts, found gained = {gained}, lost = {lost}.")
    if gained + lost == 0:
        return 1.0
    return float(binomtest(gained, gained + lost, 0.5).pvalue)


def paired_bootstrap(
    gained: int,
    lost: int,
    n: int,
    *,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """95 % percentile interval of the accuracy difference (gained - lost) / n.

    Drawing n items with replacement and counting the gained and lost among them is drawing those
    counts from a multinomial, which is what is done. Raises ValueError when n is 0.
    """
    if n <= 0 or gained + lost > n:
        raise ValueError(f"Expected 0 < gained + lost <= n, found {gained} + {lost}, n = {n}.")
    counts = {1.0: gained, -1.0: lost, 0.0: n - gained - lost}
    return _bootstrap(counts, generator, resamples)


def _bootstrap(
    counts: Mapping[float, int], generator: np.random.Generator, resamples: int
) -> tuple[float, float]:
    """95 % percentile interval of the mean difference; counts: how many items have each."""
    n = sum(counts.values())
    drawn = generator.multinomial(n, np.array([*counts.values()]) / n, size=resamples)
    means = drawn @ np.array([*counts]) / n
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def sign_flips(
    differences: Sequence[float], *, generator: np.random.Generator, resamples: int = RESAMPLES
) -> float:
    """Two-sided p-value of the mean of paired differences (Fisher's randomisation test).

    Were the models equally good, every difference were as likely as its opposite; of `resamples`
    draws of signs, and the observed ones, the share whose sum is as far from 0. For differences
    of 1, 0 and -1 it estimates mcnemar_exact.
    """
    moved = np.array([value for value in differences if value != 0])
    if len(moved) == 0:
        return 1.0
    signs = generator.integers(2, size=(resamples, len(moved))) * 2 - 1
    as_far = np.abs(signs @ moved) >= abs(moved.sum()) - 1e-9
    return float((1 + as_far.sum()) / (1 + resamples))


def compare(
    items_a: Sequence[Mapping[str, Any]],
    items_b: Sequence[Mapping[str, Any]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Model b against model a, item by item; each item has an `id` and a truth value `correct`, or
    the `share` of its samples that are right.

    `difference` is accuracy of b minus accuracy of a; `gained` counts the items on which b is
    better, `lost` those on which a is. The interval draws items anew; the p-value is McNemar's, or
    that of sign_flips where there are several samples. Raises DataError when the two do not hold
    the same ids, each once.
    """
    a, b = _by_id(items_a, "first"), _by_id(items_b, "second")
    if a.keys() != b.keys():
        only = sorted(a.keys() ^ b.keys())
        raise DataError(
            f"The two models were not scored on the same items: {len(only)} of them stand on one "
            f"side only, such as {only[0]!r}. Evaluate both with the same tasks, data and limit."
        )
    if not a:
        raise DataError("There are no items to compare. Check --limit and the task's data file.")
    differences = [b[name] - a[name] for name in a]
    gained, lost = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    generator = np.random.default_rng(seed)
    if all(d in (-1.0, 0.0, 1.0) for d in differences):
        low, high = paired_bootstrap(gained, lost, len(a), generator=generator, resamples=resamples)
        p_value = mcnemar_exact(gained, lost)
    else:
        low, high = _bootstrap(Counter(differences), generator, resamples)
        p_value = sign_flips(differences, generator=generator, resamples=resamples)
    return Comparison(
        n=len(a),
        difference=math.fsum(differences) / len(a),
        ci95=[low, high],
        p_value=p_value,
        gained=gained,
        lost=lost,
    )


def _by_id(items: Sequence[Mapping[str, Any]], which: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for item in items:
        name = str(item["id"])
        if name in found:
            raise DataError(
                f"The {which} model's items hold the id {name!r} twice. Give every item "
                "of the task's "
                "file an id of its own, delete the model's evaluate folder and run again."
            )
        found[name] = float(item["share"] if "share" in item else bool(item["correct"]))
    return found
