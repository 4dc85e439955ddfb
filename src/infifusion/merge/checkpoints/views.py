"""Tensors that are made as they are read: with other rows, or with a low-rank change.

Both are sliced flat, like the arrays they stand for, and give float32: view[start:stop].
Axes: S models, V rows (tokens) of the result; M rows and C columns of a matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MEAN, ZERO, PADDING = -1, -2, -3
ADDED = 4096  # rows that are added up at once


def as_float32(values: np.ndarray, dtype: str) -> np.ndarray:
    """Stored values as float32."""
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


@dataclass(frozen=True)
class WithRows:
    """A matrix whose rows are taken from those of S others.

    arrays: flat, rows of `width` values. from_V: the model a row comes from, or MEAN (of all that
    have it), ZERO, PADDING (the row `padding`). row_SV: the row in each model, or -1.
    """

    arrays: Sequence[np.ndarray | WithLowRank]
    dtypes: Sequence[str]
    width: int
    from_V: np.ndarray
    row_SV: np.ndarray
    padding: np.ndarray

    def __getitem__(self, part: slice) -> np.ndarray:
        first, last = part.start // self.width, -(-part.stop // self.width)
        from_V, row_SV = self.from_V[first:last], self.row_SV[:, first:last]
        out = np.zeros((len(from_V), self.width), np.float32)
        mean_V = from_V == MEAN
        for s in range(len(self.arrays)):
            taken_V = (from_V == s) | (mean_V & (row_SV[s] >= 0))
            if taken_V.any():
                out[taken_V] += self._rows(s, row_SV[s, taken_V])
        if mean_V.any():
            out[mean_V] /= (row_SV[:, mean_V] >= 0).sum(axis=0)[:, None].astype(np.float32)
        out[from_V == PADDING] = self.padding
        return out.reshape(-1)[part.start - first * self.width : part.stop - first * self.width]

    def _rows(self, model: int, row_V: np.ndarray) -> np.ndarray:
        array = self.arrays[model]
        if isinstance(array, WithLowRank):
            return array.rows(row_V)
        found = array.reshape(-1, self.width)[row_V]
        return as_float32(found.reshape(-1), self.dtypes[model]).reshape(-1, self.width)


@dataclass(frozen=True)
class WithLowRank:
    """A matrix plus left @ right; array is flat, [M, C] in all."""

    array: np.ndarray
    dtype: str
    left: np.ndarray
    right: np.ndarray

    def rows(self, row_M: np.ndarray) -> np.ndarray:
        """These rows: [M, C]."""
        width = self.right.shape[1]
        rows = as_float32(self.array.reshape(-1, width)[row_M].reshape(-1), self.dtype)
        return rows.reshape(-1, width) + self.left[row_M] @ self.right

    def __getitem__(self, part: slice) -> np.ndarray:
        width = self.right.shape[1]
        first, last = part.start // width, -(-part.stop // width)
        rows = self.rows(np.arange(first, last))
        return rows.reshape(-1)[part.start - first * width : part.stop - first * width]


@dataclass(frozen=True)
class Rows:
    """A matrix by its rows, in float32: rows[numbers] is [B, width]. array: flat, or with an
    adapter's change."""

    array: np.ndarray | WithLowRank
    dtype: str
    count: int
    width: int

    def __getitem__(self, number_B: np.ndarray) -> np.ndarray:
        if isinstance(self.array, WithLowRank):
            return self.array.rows(number_B)
        found = self.array.reshape(-1, self.width)[number_B]
        return as_float32(found.reshape(-1), self.dtype).reshape(-1, self.width)

    def mean(self, number_B: np.ndarray) -> np.ndarray:
        """The mean of some rows, added up in float64: [width]."""
        total = np.zeros(self.width)
        for start in range(0, len(number_B), ADDED):
            total += self[number_B[start : start + ADDED]].sum(axis=0, dtype=np.float64)
        return (total / max(len(number_B), 1)).astype(np.float32)
