"""Compiled loops that keep some positions and set the others to 0. Axes: P positions."""

from __future__ import annotations

from infifusion.merge.blocks.compiled import MAGNITUDE, ZERO, compiled


@compiled
def keep_from(bits_P, lowest, mask_P):
    """mask = the magnitudes of at least `lowest`."""
    for i in range(len(bits_P)):
        mask_P[i] = (bits_P[i] & MAGNITUDE) >= lowest


@compiled
def keep_some(bits_P, border, ties, mask_P):
    """mask = the magnitudes above `border`, and the first `ties` of those that equal it."""
    for i in range(len(bits_P)):
        bits = bits_P[i] & MAGNITUDE
        tie = bits == border and ties > 0
        mask_P[i] = bits > border or tie
        if tie:
            ties -= 1


@compiled
def clear(row_P, mask_P):
    """Set what the mask leaves out to 0, in place."""
    for i in range(len(row_P)):
        row_P[i] = row_P[i] if mask_P[i] else ZERO


@compiled
def clear_below(row_P, smallest):
    """Set what has a magnitude under `smallest` to 0, in place."""
    for i in range(len(row_P)):
        row_P[i] = row_P[i] if abs(row_P[i]) >= smallest else ZERO


@compiled
def clear_outside(row_P, smallest, above):
    """Set what has a magnitude under `smallest`, or of `above` and more, to 0, in place."""
    for i in range(len(row_P)):
        size = abs(row_P[i])
        row_P[i] = row_P[i] if (size >= smallest and size < above) else ZERO
