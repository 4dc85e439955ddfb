"""Values of a whole example, given to each of its positions.

Axes: S sources, T pivot positions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mean_by_example(
    value_ST: NDArray[np.float32], counted_ST: NDArray[np.bool_], example_T: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Per source, the mean of `value` over the counted positions of the position's example.

    0 where an example has no counted position. example_T holds small non-negative numbers.
    """
    examples = int(example_T.max(initial=-1)) + 1
    mean_ST = np.zeros(value_ST.shape, dtype=np.float32)
    for s in range(len(value_ST)):  # a handful of sources
        counted = counted_ST[s]
        total = np.bincount(example_T[counted], weights=value_ST[s][counted], minlength=examples)
        count = np.bincount(example_T[counted], minlength=examples)
        mean_ST[s] = (total / np.maximum(count, 1))[example_T]
    return mean_ST


def teaches_example(
    aligned_ST: NDArray[np.bool_], example_T: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Where a source is aligned anywhere in the position's example: [S, T].

    A source that a gate has shut, or that shares no boundary, is not.
    """
    ones_ST = np.ones(aligned_ST.shape, np.float32)
    return mean_by_example(ones_ST, aligned_ST, example_T) > 0


def latest_by_example(
    value_ST: NDArray[np.float32], known_T: NDArray[np.bool_], example_T: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The values at the last known position of the same example, up to this one: [S, T], and
    whether there was one: [T]. example_T is ascending."""
    last_T = np.maximum.accumulate(np.where(known_T, np.arange(len(known_T)), -1))
    known_before_T = last_T >= np.searchsorted(example_T, example_T, side="left")
    return value_ST[:, np.maximum(last_T, 0)], known_before_T
