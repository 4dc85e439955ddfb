"""Weighted sums of deltas, with or without sign election: what the task-vector methods share.

Axes: S models, P positions of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from infifusion.merge.blocks.arrays import Array
from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.result import Merged, per_model

# How the deltas that a method kept are scaled up: not at all, by the chance each had of being kept
# (so that the expectation is the delta), or so that the sum of magnitudes is what it was.
Rescale = bool | Literal["l1"]
# Below this a sum of magnitudes is not divided by.
SMALLEST_NORM = 1e-7
# Nor below this a sum of weights.
SMALLEST_WEIGHT = 1e-8


def combine(
    blocks: Blocks,
    deltas: Callable[[Block], Array],
    *,
    weight: float | list[float],
    elect_sign: bool,
    normalize: bool,
    scale: float,
    keep_norm: bool = False,
) -> Merged:
    """base + scale * sum_s w_s delta_s, over the entries that agree in sign if `elect_sign`.

    deltas(block) gives what the method kept, [S, P]. The majority sign is that of the weighted sum.
    normalize divides every position by the sum of the weights that took part in it. keep_norm
    scales each model's kept deltas to the sum of magnitudes they had. Raises ValueError where
    weights that sum to zero would be divided by.
    """
    weight_S = per_model(weight, len(blocks.models), name="weight").astype(np.float32)
    if normalize and not elect_sign and abs(float(weight_S.sum())) < SMALLEST_WEIGHT:
        raise ValueError("the weights sum to zero. Change them, or set normalize: false.")
    factor_S = norm_factors(blocks, deltas) if keep_norm else None

    def apply(block: Block) -> Array:
        delta_SP, out_P = deltas(block), block.empty()
        if factor_S is not None:
            for row_P, factor in zip(delta_SP, factor_S, strict=True):
                row_P *= float(factor)
        if elect_sign:
            votes = weight_S
            blocks.kernels.add_agreeing(
                block.base_P, delta_SP, votes, weight_S, normalize, np.float32(scale), out_P
            )
        else:
            blocks.kernels.add_weighted(
                block.base_P, delta_SP, weight_S, normalize, np.float32(scale), out_P
            )
        return out_P

    return Merged(blocks, apply)


def norm_factors(blocks: Blocks, deltas: Callable[[Block], Array]) -> np.ndarray:
    """sum |delta| / sum |kept delta| of each model: [S]; 1 where either is next to nothing."""

    def add(block: Block, sums: np.ndarray) -> None:
        # `deltas` changes block.delta_SP, so its sums are taken first.
        for n, rows_of in enumerate((lambda block: block.delta_SP, deltas)):
            for s, row_P in enumerate(rows_of(block)):
                sums[n, s] += blocks.kernels.sum_of_magnitudes(row_P)

    before_S, after_S = blocks.total(add, np.zeros((2, len(blocks.models))))
    usable = (before_S >= SMALLEST_NORM) & (after_S >= SMALLEST_NORM)
    return np.where(usable, before_S / np.where(usable, after_S, 1), 1).astype(np.float32)
