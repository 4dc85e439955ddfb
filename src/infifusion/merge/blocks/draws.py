"""Compiled loops that drop entries at random. Axes: P positions; M rows of C positions."""

from __future__ import annotations

import numpy as np

from infifusion.merge.blocks.compiled import MAGNITUDE, ONE, ZERO, compiled


@compiled
def mix(number):
    """64 well-mixed bits of a 64-bit number: the finalizer of SplitMix64 (Steele et al. 2014)."""
    number = (number ^ (number >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    number = (number ^ (number >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return number ^ (number >> np.uint64(31))


@compiled
def draw(seed, start, out_P):
    """Uniform draws in [0, 1), 24 bits each: a function of seed and position alone, so that
    neither blocks nor threads can change them."""
    for i in range(len(out_P)):
        number = mix(np.uint64(seed) + np.uint64(start + i) * np.uint64(0x9E3779B97F4A7C15))
        out_P[i] = np.float32(number >> np.uint64(40)) * np.float32(5.9604644775390625e-08)


@compiled
def keep_drawn(row_P, draw_P, chance, factor):
    """Keep an entry where its draw is under `chance`, times `factor`; else 0. In place."""
    for i in range(len(row_P)):
        row_P[i] = row_P[i] * factor if draw_P[i] < chance else ZERO


@compiled
def keep_by_rank(key_MC, draw_MC, row_MC, lowest, highest, rescale):
    """Keep the entry of rank r in its row with the chance lowest + (highest - lowest) r / (C - 1).

    key_MC: magnitude bits << 32 | position, sorted along each row. rescale divides what is kept by
    its chance. In place.
    """
    rows, size = row_MC.shape
    step = (highest - lowest) / np.float32(max(size - 1, 1))
    chance = np.empty(size, np.float32)
    for r in range(rows):
        row, draws, keys = row_MC[r], draw_MC[r], key_MC[r]
        for rank in range(size):
            chance[keys[rank] & np.uint64(0xFFFFFFFF)] = lowest + step * np.float32(rank)
        for i in range(size):
            kept = row[i] / (chance[i] if rescale else ONE)
            row[i] = kept if draws[i] < chance[i] else ZERO


@compiled
def rank_keys(row_MC, key_MC):
    """magnitude bits << 32 | position in the row, ready to be sorted."""
    for r in range(row_MC.shape[0]):
        bits = row_MC[r].view(np.uint32)
        for i in range(len(bits)):
            key_MC[r, i] = (np.uint64(bits[i] & MAGNITUDE) << np.uint64(32)) | np.uint64(i)
