"""Sparse distributions as rows: K (id, probability) pairs per position, -1 where unused.

Axes: T positions, J pairs before and K pairs after. Plain NumPy, no loop over positions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def add_up(
    ids_TJ: NDArray[np.int32], value_TJ: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Rows in which every id stands at most once: values of equal ids are added.

    Pairs whose id is -1 are dropped. Returns [T, J] arrays with unused places (-1, 0); the ids
    of a row ascend.
    """
    positions, width = ids_TJ.shape
    order_TJ = np.argsort(ids_TJ, axis=1, kind="stable")
    sorted_TJ = np.take_along_axis(ids_TJ, order_TJ, axis=1)
    value_TJ = np.take_along_axis(value_TJ, order_TJ, axis=1)
    starts_TJ = np.ones(sorted_TJ.shape, dtype=bool)
    starts_TJ[:, 1:] = sorted_TJ[:, 1:] != sorted_TJ[:, :-1]
    place_TJ = np.cumsum(starts_TJ, axis=1) - 1 + np.arange(positions)[:, None] * width
    used_TJ = sorted_TJ >= 0
    total = np.bincount(
        place_TJ[used_TJ], weights=value_TJ[used_TJ], minlength=positions * width
    ).astype(np.float32)
    ids = np.full(positions * width, -1, dtype=np.int32)
    ids[place_TJ[used_TJ]] = sorted_TJ[used_TJ]
    return ids.reshape(positions, width), total.reshape(positions, width)


def keep_largest(
    ids_TJ: NDArray[np.int32], value_TJ: NDArray[np.float32], keep: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The `keep` largest values of each row, descending; equal values by ascending id.

    Unused places (-1) come last. Returns [T, keep] arrays, padded where J < keep.
    """
    width = ids_TJ.shape[1]
    if width < keep:
        pad = ((0, 0), (0, keep - width))
        ids_TJ = np.pad(ids_TJ, pad, constant_values=-1)
        value_TJ = np.pad(value_TJ, pad)
    key_TJ = np.where(ids_TJ >= 0, value_TJ, -np.inf)
    by_id_TJ = np.argsort(ids_TJ, axis=1, kind="stable")
    by_value_TJ = np.argsort(-np.take_along_axis(key_TJ, by_id_TJ, axis=1), axis=1, kind="stable")
    order_TK = np.take_along_axis(by_id_TJ, by_value_TJ, axis=1)[:, :keep]
    return (
        np.take_along_axis(ids_TJ, order_TK, axis=1),
        np.take_along_axis(value_TJ, order_TK, axis=1),
    )
