"""Sparse distributions as rows: K (id, probability) pairs per position, -1 where unused.

Axes: T positions, J pairs before and K pairs after. Compiled loops (Numba) over positions; `put`
and `keep_row` work on one row and are the bricks of align.project and fuse.mixture.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

compiled = numba.njit(nogil=True, cache=True, error_model="numpy")


@compiled
def put(ids_J, total_J, used, token, value):
    """Add `value` to the token's entry among the first `used`, whose ids ascend, or make one.
    Returns how many are used then; J must leave room for it."""
    place = used
    while place > 0 and ids_J[place - 1] > token:
        place -= 1
    if place > 0 and ids_J[place - 1] == token:
        total_J[place - 1] += value
        return used
    for j in range(used, place, -1):
        ids_J[j] = ids_J[j - 1]
        total_J[j] = total_J[j - 1]
    ids_J[place] = token
    total_J[place] = value
    return used + 1


@compiled
def keep_row(ids_J, value_J, used, ids_K, value_K):
    """The K largest of the first `used` entries, descending; equal values by ascending id.
    Entries whose id is -1 are left out; unused places of the result are (-1, 0)."""
    kept = 0
    size = len(ids_K)
    for j in range(used):
        token, value = ids_J[j], value_J[j]
        if token < 0:
            continue
        place = kept
        while place > 0 and (
            value > value_K[place - 1] or (value == value_K[place - 1] and token < ids_K[place - 1])
        ):
            place -= 1
        if place == size:
            continue
        for k in range(min(kept, size - 1), place, -1):
            ids_K[k] = ids_K[k - 1]
            value_K[k] = value_K[k - 1]
        ids_K[place] = token
        value_K[place] = value
        kept = min(kept + 1, size)
    for k in range(kept, size):
        ids_K[k] = -1
        value_K[k] = 0


def add_up(
    ids_TJ: NDArray[np.int32], value_TJ: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Rows in which every id stands at most once: values of equal ids are added.

    Pairs whose id is -1 are dropped. Returns [T, J] arrays; the ids of a row ascend, and unused
    places (-1, 0) come last.
    """
    ids = np.full(ids_TJ.shape, -1, np.int32)
    total = np.zeros(ids_TJ.shape, np.float32)
    _add_up(ids_TJ, value_TJ, ids, total)
    return ids, total


@compiled
def _add_up(ids_TJ, value_TJ, out_ids_TJ, out_TJ):
    positions, width = ids_TJ.shape
    total_J = np.empty(width + 1)
    for t in range(positions):
        used = 0
        for j in range(width):
            if ids_TJ[t, j] >= 0:
                used = put(out_ids_TJ[t], total_J, used, ids_TJ[t, j], np.float64(value_TJ[t, j]))
        for j in range(used):
            out_TJ[t, j] = total_J[j]


def keep_largest(
    ids_TJ: NDArray[np.int32], value_TJ: NDArray[np.float32], keep: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The `keep` largest values of each row, descending; equal values by ascending id.

    Unused places (-1) come last. Returns [T, keep] arrays, padded where J < keep.
    """
    ids = np.empty((len(ids_TJ), keep), np.int32)
    value = np.empty((len(ids_TJ), keep), np.float32)
    _keep_largest(ids_TJ, value_TJ, ids, value)
    return ids, value


@compiled
def _keep_largest(ids_TJ, value_TJ, ids_TK, value_TK):
    for t in range(len(ids_TJ)):
        keep_row(ids_TJ[t], value_TJ[t], ids_TJ.shape[1], ids_TK[t], value_TK[t])
