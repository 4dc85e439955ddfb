"""Token ids on disk: the lower 16 bits of each, and the bits beyond those, packed.

Axes: U positions, K entries, X bytes of a row's high bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infifusion.rows import compiled

LOW_BITS = 16


def high_bits(vocabulary: int) -> int:
    """Bits of an id beyond the lower 16."""
    return max(0, (vocabulary - 1).bit_length() - LOW_BITS)


def pack_ids(
    ids_UK: NDArray[np.int32], vocabulary: int
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """The lower 16 bits of each id, [U, K], and the others, row by row end to end, [U, X].

    Raises ValueError for an id outside the vocabulary.
    """
    if ids_UK.size and not 0 <= int(ids_UK.min()) <= int(ids_UK.max()) < vocabulary:
        raise ValueError(
            f"ids from {ids_UK.min()} to {ids_UK.max()} do not fit a vocabulary of {vocabulary}"
        )
    bits, (rows, entries) = high_bits(vocabulary), ids_UK.shape
    high_UX = np.zeros((rows, -(-entries * bits // 8)), np.uint8)
    _pack(ids_UK, bits, high_UX)
    return (ids_UK & 0xFFFF).astype(np.uint16), high_UX


def unpack_ids(
    low_UK: NDArray[np.uint16], high_UX: NDArray[np.uint8], bits: int
) -> NDArray[np.int32]:
    """What `pack_ids` packed: [U, K]; bits as `high_bits` gives them."""
    ids_UK = np.empty(low_UK.shape, np.int32)
    _unpack(low_UK, high_UX, bits, ids_UK)
    return ids_UK


@compiled
def _pack(ids_UK, bits, high_UX):
    for u in range(ids_UK.shape[0]):
        place = 0
        for k in range(ids_UK.shape[1]):
            for bit in range(bits):
                one = (ids_UK[u, k] >> (LOW_BITS + bit)) & 1
                high_UX[u, place >> 3] |= np.uint8(one << (place & 7))
                place += 1


@compiled
def _unpack(low_UK, high_UX, bits, ids_UK):
    for u in range(ids_UK.shape[0]):
        waiting, held, place = 0, 0, 0  # bits of the bytes before `place` that are not yet used
        for k in range(ids_UK.shape[1]):
            while held < bits:
                waiting |= np.int64(high_UX[u, place]) << held
                held += 8
                place += 1
            ids_UK[u, k] = low_UK[u, k] | ((waiting & ((1 << bits) - 1)) << LOW_BITS)
            waiting >>= bits
            held -= bits
