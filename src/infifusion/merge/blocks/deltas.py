"""Weighted sums of deltas: the shape that TIES, DARE, DELLA, breadcrumbs and task arithmetic share.

    mask the delta of each model -> rescale what is left -> elect a sign, or not -> sum, normalise

Axes: S models, P positions of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np

from infifusion.merge.blocks.adding import add_agreeing, add_weighted
from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.compiled import ZERO
from infifusion.merge.blocks.fused import add_agreeing_trimmed, add_weighted_trimmed
from infifusion.merge.blocks.result import Merged, per_model
from infifusion.merge.blocks.sums import sum_of_magnitudes

# How the entries that a mask left are scaled up: not at all, by the chance each had of being kept
# (so that the expectation is the delta), or so that the sum of magnitudes is what it was.
Rescale = bool | Literal["l1"]
# Below this a sum of magnitudes is not divided by.
SMALLEST_NORM = 1e-7
# Nor below this a sum of weights.
SMALLEST_WEIGHT = 1e-8

Mask = Callable[[Block, int, np.ndarray], None]
"""mask(block, s, delta_P) sets what it leaves out of model s's delta to 0, in place."""


Smallest = Callable[[Block], list[np.float32] | None]
"""What a mask keeps of each model's delta in a block, if that is the magnitudes from a smallest on:
the same as the mask."""


class SumParams(Protocol):
    """The parameters that every method of this shape has."""

    @property
    def weight(self) -> float | list[float]:
        """Weight of each model's delta."""
        ...

    @property
    def lambda_(self) -> float:
        """Factor on the merged delta."""
        ...

    @property
    def normalize(self) -> bool:
        """Divide every position by the sum of the weights that took part in it."""
        ...


def sum_deltas(
    blocks: Blocks,
    params: SumParams,
    mask: Mask | None = None,
    *,
    smallest: Smallest | None = None,
    elect_sign: bool = False,
    keep_norm: bool = False,
) -> Merged:
    """base + lambda * sum_s w_s mask(delta_s), over the entries that agree in sign if `elect_sign`.
    smallest: the same as the mask, where it is a bound in the block.

    The majority sign is that of the weighted sum. keep_norm scales each model's masked delta to the
    sum of magnitudes it had. Raises ValueError where weights that sum to zero would be divided by.
    """
    weight_S = per_model(params.weight, len(blocks.models), name="weight").astype(np.float32)
    normalize, scale = params.normalize, np.float32(params.lambda_)
    if normalize and not elect_sign and abs(float(weight_S.sum())) < SMALLEST_WEIGHT:
        raise ValueError("the weights sum to zero. Change them, or set normalize: false.")
    factor_S = _norm_factors(blocks, mask) if keep_norm and mask else None
    plain = blocks.plain and factor_S is None and (mask is None or smallest is not None)

    def apply(block: Block) -> np.ndarray:
        trimmed_S = (smallest(block) if smallest else [ZERO] * len(weight_S)) if plain else None
        if trimmed_S is not None:
            add = add_agreeing_trimmed if elect_sign else add_weighted_trimmed
            out_P, kept = block.empty(), (tuple(trimmed_S), tuple(weight_S))
            if not add(*block.stored, *kept, normalize, scale, out_P):
                block.require_finite()
            return out_P
        delta_SP, out_P = _masked(block, mask), block.empty()
        if factor_S is not None:
            delta_SP *= factor_S[:, None]
        if elect_sign:
            add_agreeing(block.base_P, delta_SP, weight_S, weight_S, normalize, scale, out_P)
        else:
            add_weighted(block.base_P, delta_SP, weight_S, normalize, scale, out_P)
        return out_P

    return Merged(blocks, apply)


def _masked(block: Block, mask: Mask | None) -> np.ndarray:
    """The block's deltas, masked in place: [S, P]."""
    if mask is not None:
        for s, delta_P in enumerate(block.delta_SP):
            mask(block, s, delta_P)
    return block.delta_SP


def _norm_factors(blocks: Blocks, mask: Mask) -> np.ndarray:
    """sum |delta| / sum |masked delta| of each model: [S]; 1 where either is next to nothing."""

    def add(block: Block, sums_2S: np.ndarray) -> None:
        for s, delta_P in enumerate(block.delta_SP):
            sums_2S[0, s] += sum_of_magnitudes(delta_P)
            mask(block, s, delta_P)
            sums_2S[1, s] += sum_of_magnitudes(delta_P)

    before_S, after_S = blocks.total(add, np.zeros((2, len(blocks.models))))
    usable_S = (before_S >= SMALLEST_NORM) & (after_S >= SMALLEST_NORM)
    return np.where(usable_S, before_S / np.where(usable_S, after_S, 1), 1).astype(np.float32)
