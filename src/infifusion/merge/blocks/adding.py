"""Compiled loops that add the models' deltas to the base. Axes: S models, P positions."""

from __future__ import annotations

import numpy as np

from infifusion.merge.blocks.compiled import ONE, TILE, ZERO, compiled


@compiled
def add_weighted(base_P, row_SP, weight_S, normalize, scale, out_P):
    """out = base + scale * sum_s w_s row_s, divided by sum_s w_s if `normalize`."""
    models, size = row_SP.shape
    divisor = ZERO
    for s in range(models):
        divisor += weight_S[s]
    if not normalize:
        divisor = ONE
    for start in range(0, size, TILE):
        stop = min(start + TILE, size)
        out = out_P[start:stop]
        base = base_P[start:stop]
        for i in range(stop - start):
            out[i] = ZERO
        for s in range(models):
            row = row_SP[s, start:stop]
            weight = weight_S[s]
            for i in range(stop - start):
                out[i] += weight * row[i]
        for i in range(stop - start):
            out[i] = base[i] + scale * (out[i] / divisor)


@compiled
def add_agreeing(base_P, row_SP, vote_S, weight_S, normalize, scale, out_P):
    """out = base + scale * sum of w_s row_s over the entries that have the majority's sign.

    The majority sign of a position is that of sum_s vote_s row_s; a sum of exactly 0 elects plus,
    and an entry of 0 never agrees. `normalize` divides by the weights that agree.
    """
    models, size = row_SP.shape
    elected = np.empty(TILE, np.float32)
    divisor = np.empty(TILE, np.float32)
    for start in range(0, size, TILE):
        stop = min(start + TILE, size)
        width = stop - start
        out = out_P[start:stop]
        base = base_P[start:stop]
        for i in range(width):
            elected[i] = ZERO
            divisor[i] = ZERO
            out[i] = ZERO
        for s in range(models):
            row = row_SP[s, start:stop]
            vote = vote_S[s]
            for i in range(width):
                elected[i] += vote * row[i]
        for s in range(models):
            row = row_SP[s, start:stop]
            vote = vote_S[s]
            weight = weight_S[s]
            for i in range(width):
                x = vote * row[i]
                agrees = (x > ZERO) if elected[i] >= ZERO else (x < ZERO)
                out[i] += weight * row[i] if agrees else ZERO
                divisor[i] += weight if agrees else ZERO
        for i in range(width):
            small = not normalize or divisor[i] == ZERO
            out[i] = base[i] + scale * (out[i] / (ONE if small else divisor[i]))


@compiled
def count_overlaps(row_SP, epsilon, found_2S):
    """Add, per model, how many entries above epsilon others share, and how many are alone."""
    models, size = row_SP.shape
    for i in range(size):
        active = 0
        for s in range(models):
            active += abs(row_SP[s, i]) > epsilon
        for s in range(models):
            if abs(row_SP[s, i]) > epsilon:
                found_2S[0 if active > 1 else 1, s] += 1


@compiled
def add_overlapping(base_P, row_SP, epsilon, alone_S, out_P):
    """out = base + mean of the entries above epsilon; one that stands alone counts alone_s."""
    models, size = row_SP.shape
    count = np.empty(TILE, np.float32)
    for start in range(0, size, TILE):
        stop = min(start + TILE, size)
        width = stop - start
        out = out_P[start:stop]
        base = base_P[start:stop]
        for i in range(width):
            count[i] = ZERO
            out[i] = ZERO
        for s in range(models):
            row = row_SP[s, start:stop]
            for i in range(width):
                count[i] += ONE if abs(row[i]) > epsilon else ZERO
        for s in range(models):
            row = row_SP[s, start:stop]
            for i in range(width):
                factor = alone_S[s] if count[i] == ONE else ONE
                out[i] += factor * row[i] if abs(row[i]) > epsilon else ZERO
        for i in range(width):
            out[i] = base[i] + out[i] / max(count[i], ONE)
