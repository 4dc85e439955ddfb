"""Compiled loops from stored bfloat16 to what a method makes of it: a position is read, decoded and
done with, and nothing in between is stored. They calculate what the loops in `stored`, `sums` and
`adding` do, in the same order, so that both ways give the same bits.

The models and what is theirs (weights, votes) are tuples: their number is known when a loop is
compiled, the loops over them are unrolled, and vector units take many positions at once.

Axes: S models, P positions of a block.
"""

from __future__ import annotations

import numpy as np

from infifusion.merge.blocks.compiled import MAGNITUDE, ONE, ZERO, compiled
from infifusion.merge.blocks.sums import LANES

INFINITE = np.uint16(0x7F80)


@compiled
def _value(raw):
    """bfloat16 as float32."""
    return np.uint32(np.uint32(raw) << np.uint32(16)).view(np.float32)


@compiled
def _bits(value):
    """The magnitude of a float32 as a whole number of the same order."""
    return np.float32(value).view(np.uint32) & MAGNITUDE


@compiled
def _finite(raw_SP):
    """Whether none of the values is NaN or Inf."""
    largest = np.uint16(0)
    for s in range(len(raw_SP)):
        raw_P = raw_SP[s]
        for i in range(len(raw_P)):
            largest = max(largest, np.uint16(raw_P[i] & np.uint16(0x7FFF)))
    return largest < INFINITE


@compiled
def _variance(base, raw_SP, i):
    """`sums.variance` at one position."""
    share = ONE / np.float32(len(raw_SP))
    first = _value(raw_SP[0][i]) - base
    mean = ZERO
    for s in range(1, len(raw_SP)):
        mean += (_value(raw_SP[s][i]) - base) - first
    mean *= share
    total = mean * mean
    for s in range(1, len(raw_SP)):
        distance = ((_value(raw_SP[s][i]) - base) - first) - mean
        total += distance * distance
    return total * share


@compiled
def variances_of(base_P, raw_SP, out_P):
    """The variance over the models: [P]; returns whether all inputs are finite."""
    for i in range(len(out_P)):
        out_P[i] = _variance(_value(base_P[i]), raw_SP, i)
    return _finite((base_P,)) and _finite(raw_SP)


@compiled
def add_kept_squares(base_P, raw_SP, lowest, sums):
    """Add each model's sum of squares over the positions whose variance has bits of at least
    `lowest`, and, last, how many these are. Sums run as in `sums.sum_of_products`. Returns whether
    all inputs are finite."""
    models, size = len(raw_SP), len(base_P)
    keep_P = np.empty(size, np.uint8)
    kept = np.uint32(0)
    for i in range(size):
        is_kept = _bits(_variance(_value(base_P[i]), raw_SP, i)) >= lowest
        keep_P[i] = np.uint8(is_kept)
        kept += np.uint32(is_kept)
    lane = np.zeros((models, LANES))
    for start in range(0, size, LANES):
        stop = min(start + LANES, size)
        base, keep = base_P[start:stop], keep_P[start:stop]
        for s in range(models):
            row, lane_L = raw_SP[s][start:stop], lane[s]
            for i in range(stop - start):
                delta = _value(row[i]) - _value(base[i])
                delta = np.float64(delta if keep[i] else ZERO)
                lane_L[i] += delta * delta
    for s in range(models):
        total = 0.0
        for i in range(LANES):
            total += lane[s, i]
        sums[s] += total
    sums[models] += kept
    return lowest > 0 or (_finite((base_P,)) and _finite(raw_SP))


@compiled
def add_agreeing_kept(base_P, raw_SP, lowest, vote_S, weight_S, out_P):
    """`adding.add_agreeing`, normalised, where the variance has bits of at least `lowest`; the base
    elsewhere."""
    for i in range(len(out_P)):
        base = _value(base_P[i])
        keep = _bits(_variance(base, raw_SP, i)) >= lowest
        elected, total, divisor = ZERO, ZERO, ZERO
        for s in range(len(raw_SP)):
            delta = _value(raw_SP[s][i]) - base
            elected += vote_S[s] * (delta if keep else ZERO)
        for s in range(len(raw_SP)):
            delta = _value(raw_SP[s][i]) - base
            delta = delta if keep else ZERO
            vote = vote_S[s] * delta
            agrees = (vote > ZERO) if elected >= ZERO else (vote < ZERO)
            total += weight_S[s] * delta if agrees else ZERO
            divisor += weight_S[s] if agrees else ZERO
        out_P[i] = base + total / (ONE if divisor == ZERO else divisor)


@compiled
def add_agreeing_trimmed(base_P, raw_SP, smallest_S, weight_S, normalize, scale, out_P):
    """`adding.add_agreeing` of the deltas whose magnitude is at least smallest_s; returns whether
    all inputs are finite."""
    for i in range(len(out_P)):
        base = _value(base_P[i])
        elected, total, divisor = ZERO, ZERO, ZERO
        for s in range(len(raw_SP)):
            delta = _value(raw_SP[s][i]) - base
            elected += weight_S[s] * (delta if abs(delta) >= smallest_S[s] else ZERO)
        for s in range(len(raw_SP)):
            delta = _value(raw_SP[s][i]) - base
            delta = delta if abs(delta) >= smallest_S[s] else ZERO
            vote = weight_S[s] * delta
            agrees = (vote > ZERO) if elected >= ZERO else (vote < ZERO)
            total += vote if agrees else ZERO
            divisor += weight_S[s] if agrees else ZERO
        small = not normalize or divisor == ZERO
        out_P[i] = base + scale * (total / (ONE if small else divisor))
    return _finite((base_P,)) and _finite(raw_SP)


@compiled
def add_weighted_trimmed(base_P, raw_SP, smallest_S, weight_S, normalize, scale, out_P):
    """`adding.add_weighted` of the same."""
    divisor = ZERO
    for s in range(len(raw_SP)):
        divisor += weight_S[s]
    divisor = divisor if normalize else ONE
    for i in range(len(out_P)):
        base = _value(base_P[i])
        total = ZERO
        for s in range(len(raw_SP)):
            delta = _value(raw_SP[s][i]) - base
            total += weight_S[s] * (delta if abs(delta) >= smallest_S[s] else ZERO)
        out_P[i] = base + scale * (total / divisor)
    return _finite((base_P,)) and _finite(raw_SP)


@compiled
def combine(raw_SP, factor_S, out_P):
    """out = sum_s f_s theta_s; returns whether all inputs are finite."""
    for i in range(len(out_P)):
        total = ZERO
        for s in range(len(raw_SP)):
            total += factor_S[s] * _value(raw_SP[s][i])
        out_P[i] = total
    return _finite(raw_SP)
