"""Boundary alignment: which source position predicts from the same byte as a pivot position.

Axes: T pivot positions, U source positions, both flat over the same N examples; row_N1 says
which positions belong to which example.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from infifusion.rows import compiled
from infifusion.types import lengths

# A response is shorter than 4 GiB, so example number and byte fit one sorted int64 key.
BYTES_PER_EXAMPLE = np.int64(1) << 32


def keys(start_R: NDArray[np.int32], row_N1: NDArray[np.int64]) -> NDArray[np.int64]:
    """One ascending int64 per position: example number and start byte together."""
    return example_of(row_N1) * BYTES_PER_EXAMPLE + start_R


def example_of(row_N1: NDArray[np.int64]) -> NDArray[np.int64]:
    """The example that each position belongs to: [R]."""
    return np.repeat(np.arange(len(row_N1) - 1, dtype=np.int64), np.diff(row_N1))


def end_keys(start_R: NDArray[np.int32], row_N1: NDArray[np.int64]) -> NDArray[np.int64]:
    """The key of the byte at which each position's token ends.

    A token ends where the next one starts. The end of the turn, the last position of an example,
    ends one past the response, in every tokenizer alike.
    """
    key_R = keys(start_R, row_N1)
    end_R = np.empty_like(key_R)
    end_R[:-1] = key_R[1:]
    last = row_N1[1:][np.diff(row_N1) > 0] - 1
    end_R[last] = key_R[last] + 1
    return end_R


def can_be_aligned(start_R: NDArray[np.int32], row_N1: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Positions that say what comes at a byte of the response, or that it ends: [R].

    Not those of the lead, which begin before the response; of tokens without width the last one,
    which is followed by text; of the tokens that end a turn the first.
    """
    same_R = np.zeros(len(start_R), np.bool_)  # starts where the position before it does
    same_R[1:] = start_R[1:] == start_R[:-1]
    same_R[row_N1[:-1][np.diff(row_N1) > 0]] = False
    end_R = start_R == lengths(start_R, row_N1)
    followed_R = np.append(same_R[1:], False)
    return (start_R >= 0) & np.where(end_R, ~same_R, ~followed_R)


def match(key_T: NDArray[np.int64], key_U: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of T keys the index of the equal one among U keys, or -1: [T]. Both ascend.

    Where several positions share a byte (tokens of zero width) the first one is taken. One walk
    along both lists: time grows with T + U.
    """
    index_T = np.empty(len(key_T), np.int64)
    _match(key_T, key_U, index_T)
    return index_T


@compiled
def _match(key_T, key_U, index_T):
    u = 0
    for t in range(len(key_T)):
        while u < len(key_U) and key_U[u] < key_T[t]:
            u += 1
        index_T[t] = u if u < len(key_U) and key_U[u] == key_T[t] else -1


@dataclass(frozen=True)
class Positions:
    """The response positions of some examples under one tokenizer (see types.Rendered).

    start_R: int32, start bytes; row_N1: int64, which rows belong to which example; gold_R: int32,
    the token that is there; private_R: bool, rows that are aligned with nothing (None: there are no
    such rows).
    """

    start_R: NDArray[np.int32]
    row_N1: NDArray[np.int64]
    gold_R: NDArray[np.int32]
    private_R: NDArray[np.bool_] | None = None

    @cached_property
    def key_R(self) -> NDArray[np.int64]:
        """Where each token starts, as `keys`."""
        return keys(self.start_R, self.row_N1)

    @cached_property
    def aligns_R(self) -> NDArray[np.bool_]:
        """As `can_be_aligned`."""
        return can_be_aligned(self.start_R, self.row_N1)

    @cached_property
    def end_R(self) -> NDArray[np.int64]:
        """Where each token ends, as `end_keys`."""
        return end_keys(self.start_R, self.row_N1)
