"""Which examples a run trains on, and how often: its `domains` and `written`, and `weight` of
data.train."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from infifusion.data.store import Label
from infifusion.errors import DataError


def weighted(
    number_N: NDArray[np.int64], set_N: NDArray[np.int64], weights: Sequence[float], *, seed: int
) -> NDArray[np.int64]:
    """The numbers of examples, each as often as an epoch goes over it, in order.

    set_N: the data set of each, -1 for answers that sources wrote, which have weight 1. A weight of
    2.5 takes every example twice and half of them, drawn by the seed, a third time. DataError where
    that leaves none.
    """
    times_N = np.ones(len(number_N), dtype=np.int64)
    for place, weight in enumerate(weights):
        of_set = np.flatnonzero(set_N == place)
        whole = int(weight)
        times_N[of_set] = whole
        more = round((weight - whole) * len(of_set))
        drawn = random.Random(f"{seed}:weight:{place}").sample(range(len(of_set)), more)
        times_N[of_set[drawn]] += 1
    if not times_N.any():
        raise DataError(
            f"data.train: weights of {', '.join(f'{weight:g}' for weight in weights)} leave none "
            f"of the {len(number_N)} examples that the run would train on. Raise them."
        )
    return np.repeat(number_N, times_N)


def chosen_of(
    labels: Sequence[Label], domains: Sequence[str] | None, written: bool | Literal["only"]
) -> NDArray[np.int64] | None:
    """Numbers of the examples of these domains (None for all), with the answers that sources wrote
    or without them, or those answers only; None for all examples."""
    if domains is None and written is True:
        return None

    def wanted(label: Label) -> bool:
        if domains is not None and label.domain not in domains:
            return False
        if written == "only":
            return (label.written_by or label.confirmed_by) is not None
        return written or label.written_by is None

    return np.flatnonzero([wanted(label) for label in labels])
