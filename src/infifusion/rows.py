"""Sparse distributions as rows: K (id, value) pairs per position, -1 where unused.

Axes: T positions, J pairs before and K pairs after. Compiled loops (Numba) over positions; `add`
and `keep_row` work on one row and are the bricks of align.project and fuse.mixture.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

compiled = numba.njit(nogil=True, cache=True, error_model="numpy")


@compiled
def add(ids_J, total_J, used, token, value, searched):
    """Add `value` to the token's entry, or append one; returns how many are used then.

    The entry is looked for among the first `searched` of the `used` ones. The search has no early
    exit, so that the compiler makes vector instructions of it.
    """
    place = np.int32(-1)
    for j in range(searched):
        if ids_J[j] == token:
            place = np.int32(j)
    if place >= 0:
        total_J[place] += value
        return used
    ids_J[used] = token
    total_J[used] = value
    return used + 1


@compiled
def keep_row(ids_J, value_J, used, ids_K, value_K):
    """The K largest of the first `used` entries, descending; equal values by ascending id.

    Entries whose id is -1 are left out; unused places of the result are (-1, 0). Insertion from the
    end: fast where the entries come in descending runs, as the sources' rows do.
    """
    kept, size = 0, len(ids_K)
    for j in range(used):
        token, value = ids_J[j], value_J[j]
        place = min(kept, size - 1)
        if token < 0 or (kept == size and not _before(value, token, value_K[place], ids_K[place])):
            continue
        while place > 0 and _before(value, token, value_K[place - 1], ids_K[place - 1]):
            ids_K[place], value_K[place] = ids_K[place - 1], value_K[place - 1]
            place -= 1
        ids_K[place], value_K[place] = token, value
        kept = min(kept + 1, size)
    for k in range(kept, size):
        ids_K[k], value_K[k] = -1, 0


@compiled
def _before(value, token, other, other_token):
    """Whether an entry stands before another one in a row."""
    return value > other or (value == other and token < other_token)


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
