"""What the compiled inner loops of merging have in common.

The loops stand in `stored`, `counts`, `masks`, `sums`, `adding` and `draws`. Each works on one
block that fits the cache. Everything is float32 with sums in float64. No loop is reordered by the
compiler (no fast-math), so the same input gives the same bits in every process. numba keeps the
machine code of a loop as long as the loop's own file is unchanged: after a change of this file,
delete the folders __pycache__.

Axes: S models, P positions of the block; M rows of C positions.
"""

from __future__ import annotations

import numba
import numpy as np

compiled = numba.njit(nogil=True, cache=True, error_model="numpy")

TILE = 1024  # positions that a loop over the models keeps in the first-level cache
MAGNITUDE = np.uint32(0x7FFFFFFF)  # all bits of a float32 but its sign
ZERO = np.float32(0)
ONE = np.float32(1)
