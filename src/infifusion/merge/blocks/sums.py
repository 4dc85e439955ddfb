"""Compiled loops that add up positions, models or both.

Sums run in LANES partial sums that are added up in a fixed order: vector units can add them side
by side, and the result does not depend on how wide they are. Axes: S models, P positions.
"""

from __future__ import annotations

import numpy as np

from infifusion.merge.blocks.compiled import ONE, TILE, ZERO, compiled

LANES = 256


@compiled
def sum_of_products(a_P, b_P):
    """sum a b, float64."""
    lane = np.zeros(LANES)
    size = len(a_P)
    whole = size - size % LANES
    for start in range(0, whole, LANES):
        a = a_P[start : start + LANES]
        b = b_P[start : start + LANES]
        for i in range(LANES):
            lane[i] += np.float64(a[i]) * np.float64(b[i])
    for i in range(size - whole):
        lane[i] += np.float64(a_P[whole + i]) * np.float64(b_P[whole + i])
    total = 0.0
    for i in range(LANES):
        total += lane[i]
    return total


@compiled
def sum_of_magnitudes(row_P):
    """sum |x|, float64."""
    lane = np.zeros(LANES)
    size = len(row_P)
    whole = size - size % LANES
    for start in range(0, whole, LANES):
        row = row_P[start : start + LANES]
        for i in range(LANES):
            lane[i] += np.float64(abs(row[i]))
    for i in range(size - whole):
        lane[i] += np.float64(abs(row_P[whole + i]))
    total = 0.0
    for i in range(LANES):
        total += lane[i]
    return total


@compiled
def gram(row_SP, out_SS):
    """Add the inner products of the rows: out += row row^T, float64."""
    for s in range(row_SP.shape[0]):
        for r in range(s + 1):
            product = sum_of_products(row_SP[s], row_SP[r])
            out_SS[s, r] += product
            if r != s:
                out_SS[r, s] += product


@compiled
def root_moments(variance_P, centre, total):
    """Add #{v > 0}, and the sums of x, x^2, x^3 with x = sqrt(v) - centre where v > 0."""
    lane = np.zeros((4, LANES))
    size = len(variance_P)
    for start in range(0, size, LANES):
        width = min(LANES, size - start)
        row = variance_P[start : start + width]
        for i in range(width):
            positive = row[i] > ZERO
            x = np.float64(np.sqrt(row[i])) - centre
            x = x if positive else 0.0
            lane[0, i] += np.float64(positive)
            lane[1, i] += x
            lane[2, i] += x * x
            lane[3, i] += x * x * x
    for k in range(4):
        for i in range(LANES):
            total[k] += lane[k, i]


@compiled
def variance(row_SP, out_P):
    """Population variance over the models: [P]. Taken about the first model, so that rows that
    are exactly equal give exactly 0."""
    models, size = row_SP.shape
    share = ONE / np.float32(models)
    mean = np.empty(TILE, np.float32)
    for start in range(0, size, TILE):
        stop = min(start + TILE, size)
        first = row_SP[0, start:stop]
        out = out_P[start:stop]
        width = stop - start
        for i in range(width):
            mean[i] = ZERO
        for s in range(1, models):
            row = row_SP[s, start:stop]
            for i in range(width):
                mean[i] += row[i] - first[i]
        for i in range(width):
            mean[i] *= share
            out[i] = mean[i] * mean[i]
        for s in range(1, models):
            row = row_SP[s, start:stop]
            for i in range(width):
                distance = (row[i] - first[i]) - mean[i]
                out[i] += distance * distance
        for i in range(width):
            out[i] *= share


@compiled
def add_scaled(total_P, row_P, factor):
    """total += factor * row, in place."""
    for i in range(len(row_P)):
        total_P[i] += factor * row_P[i]
