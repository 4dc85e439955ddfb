"""How sure an accuracy is, and whether two models differ on the same items."""

from __future__ import annotations

import math
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
    if n == 0:
        return 0.0, 1.0
    share = correct / n
    scale = 1 + z**2 / n
    centre = (share + z**2 / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low = 0.0 if correct == 0 else centre - half
    high = 1.0 if correct == n else centre + half
    return low, high


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
    shares = np.array([gained, lost, n - gained - lost]) / n
    counts = generator.multinomial(n, shares, size=resamples)
    differences = (counts[:, 0] - counts[:, 1]) / n
    low, high = np.quantile(differences, [0.025, 0.975])
    return float(low), float(high)


def compare(
    items_a: Sequence[Mapping[str, Any]],
    items_b: Sequence[Mapping[str, Any]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Model b against model a, item by item; each item has an `id` and a truth value `correct`.

    `difference` is accuracy of b minus accuracy of a; `gained` counts the items that b alone has
    right, `lost` those that a alone has right. Raises DataError when the two do not hold the same
    ids, each once.
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
    gained = sum(b[name] and not a[name] for name in a)
    lost = sum(a[name] and not b[name] for name in a)
    low, high = paired_bootstrap(
        gained, lost, len(a), generator=np.random.default_rng(seed), resamples=resamples
    )
    return Comparison(
        n=len(a),
        difference=(gained - lost) / len(a),
        ci95=[low, high],
        p_value=mcnemar_exact(gained, lost),
        gained=gained,
        lost=lost,
    )


def _by_id(items: Sequence[Mapping[str, Any]], which: str) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for item in items:
        name = str(item["id"])
        if name in found:
            raise DataError(
                f"The {which} model's items hold the id {name!r} twice. Give every item "
                "of the task's "
                "file an id of its own, delete the model's evaluate folder and run again."
            )
        found[name] = bool(item["correct"])
    return found
