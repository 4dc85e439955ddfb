"""Compiled loops that count magnitudes by their bits: histograms, and what lies in between.

Axes: P positions.
"""

from __future__ import annotations

import numpy as np

from infifusion.merge.blocks.compiled import MAGNITUDE, compiled

LEADING = 1 << 16  # leading parts of a magnitude: 8 bits of exponent, 8 of the fraction
TRAILING = 1 << 15  # trailing parts
TURNS = 4  # counters per value of a histogram
LEADING_SHIFT = np.uint32(15)
SECOND_COUNT = 32  # bit where the second count of a counter of `count_leading_twice` begins
FIRST_COUNT = np.int64((1 << SECOND_COUNT) - 1)  # mask of the first
IN_BOTH = np.int64((1 << SECOND_COUNT) + 1)


@compiled
def count_leading(bits_P, histogram):
    """Add up how often each leading part of a magnitude occurs: [TURNS, 65536].

    TURNS counters of each value take turns: deltas have many zeros and few different values, and an
    increment has to wait for the one before it at the same counter.
    """
    h0, h1, h2, h3 = histogram
    size = len(bits_P)
    whole = size - size % 4
    for i in range(0, whole, 4):
        h0[(bits_P[i] & MAGNITUDE) >> LEADING_SHIFT] += 1
        h1[(bits_P[i + 1] & MAGNITUDE) >> LEADING_SHIFT] += 1
        h2[(bits_P[i + 2] & MAGNITUDE) >> LEADING_SHIFT] += 1
        h3[(bits_P[i + 3] & MAGNITUDE) >> LEADING_SHIFT] += 1
    for i in range(whole, size):
        h0[(bits_P[i] & MAGNITUDE) >> LEADING_SHIFT] += 1


@compiled
def count_leading_twice(bits_P, histogram):
    """`count_leading`, and in the upper 32 bits of a counter how many of them have trailing bits
    that are not all 0. For up to 2^34 positions."""
    h0, h1, h2, h3 = histogram
    size = len(bits_P)
    whole = size - size % 4
    for i in range(0, whole, 4):
        h0[(bits_P[i] & MAGNITUDE) >> LEADING_SHIFT] += _twice(bits_P[i])
        h1[(bits_P[i + 1] & MAGNITUDE) >> LEADING_SHIFT] += _twice(bits_P[i + 1])
        h2[(bits_P[i + 2] & MAGNITUDE) >> LEADING_SHIFT] += _twice(bits_P[i + 2])
        h3[(bits_P[i + 3] & MAGNITUDE) >> LEADING_SHIFT] += _twice(bits_P[i + 3])
    for i in range(whole, size):
        h0[(bits_P[i] & MAGNITUDE) >> LEADING_SHIFT] += _twice(bits_P[i])


@compiled
def _twice(number):
    uneven = (number & np.uint32(0x7FFF)) != np.uint32(0)
    return IN_BOTH if uneven else np.int64(1)


@compiled
def sum_leading(bits_P, value_P, total):
    """Add up the values by the leading part of their magnitude."""
    for i in range(len(bits_P)):
        total[(bits_P[i] & MAGNITUDE) >> LEADING_SHIFT] += np.float64(value_P[i])


@compiled
def count_trailing(bits_P, leading, histogram):
    """Among the magnitudes with this leading part: how often each trailing part occurs: [TURNS,
    32768 + 256]. What has another one is counted in the last 256 places: a branch would often be
    guessed wrong, and one place for all would be waited for."""
    h0, h1, h2, h3 = histogram
    size = len(bits_P)
    whole = size - size % 4
    for i in range(0, whole, 4):
        h0[_trailing(bits_P[i], leading)] += 1
        h1[_trailing(bits_P[i + 1], leading)] += 1
        h2[_trailing(bits_P[i + 2], leading)] += 1
        h3[_trailing(bits_P[i + 3], leading)] += 1
    for i in range(whole, size):
        h0[_trailing(bits_P[i], leading)] += 1


@compiled
def _trailing(number, leading):
    bits = number & MAGNITUDE
    inside = bits >> LEADING_SHIFT == leading
    return (
        (bits & np.uint32(0x7FFF))
        if inside
        else np.uint32(0x8000) + ((bits >> LEADING_SHIFT) & np.uint32(0xFF))
    )


@compiled
def count_equal(bits_P, wanted):
    """How many magnitudes have exactly these bits."""
    found = np.uint32(0)
    for i in range(len(bits_P)):
        found += np.uint32((bits_P[i] & MAGNITUDE) == wanted)
    return found


@compiled
def gather_between(bits_P, low, high, out):
    """The magnitudes in [low, high], in order, into `out`, which has one place more than there are
    positions; returns how many."""
    found = 0
    for i in range(len(bits_P)):
        bits = bits_P[i] & MAGNITUDE
        out[found] = bits  # without a branch, which would often be guessed wrong
        found += low <= bits <= high
    return found


def between(row_P: np.ndarray, low: int, high: int) -> np.ndarray:
    """The magnitudes of the float32 row with bits in [low, high], in order: uint32."""
    out = np.empty(len(row_P) + 1, np.uint32)
    count = gather_between(row_P.view(np.uint32), np.uint32(low), np.uint32(high), out)
    return out[:count].copy()
