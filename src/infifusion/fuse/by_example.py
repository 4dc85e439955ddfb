"""Means over the positions of an example, handed back to each of its positions."""

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
