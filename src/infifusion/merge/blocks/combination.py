"""Merges that are one linear combination of whole tensors, and the inner products they need.

Axes: S models (after the base, where there is one, in `vectors`).
"""

from __future__ import annotations

import numpy as np

from infifusion.merge.blocks.arrays import Array
from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.result import Merged


def combination(
    blocks: Blocks, coefficient_S: np.ndarray, *, base: float = 0.0, **details: float
) -> Merged:
    """base * theta_base + sum_s c_s theta_s."""
    factor_S = [np.float32(c) for c in coefficient_S]

    def apply(block: Block) -> Array:
        out_P = block.base_P * float(base) if base else block.zeros()
        for factor, row_P in zip(factor_S, block.model_SP, strict=True):
            blocks.kernels.add_scaled(out_P, row_P, factor)
        return out_P

    return Merged(blocks, apply, dict(details))


def of_deltas(blocks: Blocks, coefficient_S: np.ndarray, **details: float) -> Merged:
    """base + sum_s c_s (theta_s - base); without a base, sum_s c_s theta_s."""
    if blocks.base is None:
        return combination(blocks, coefficient_S, **details)
    factor_S = [np.float32(c) for c in coefficient_S]

    def apply(block: Block) -> Array:
        delta_SP, out_P = block.delta_SP, block.base_P
        for factor, row_P in zip(factor_S, delta_SP, strict=True):
            blocks.kernels.add_scaled(out_P, row_P, factor)
        return out_P

    return Merged(blocks, apply, dict(details))


def inner_products(blocks: Blocks, *, of: str) -> np.ndarray:
    """Inner products of the tensors, float64: [S, S]; `of`: models, deltas or ends (base first)."""

    def rows(block: Block) -> Array:
        if of == "deltas":
            return block.delta_SP
        return block.end_SP if of == "ends" else block.model_SP

    size = len(blocks.models) + (of == "ends")
    gram = blocks.kernels.gram
    return blocks.total(lambda block, sums: gram(rows(block), sums), np.zeros((size, size)))
