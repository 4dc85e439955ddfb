"""Merges that are one linear combination of whole tensors, and the inner products they need.

Axes: S models (or base and models, where products of both ends are asked for), P positions,
M rows of C positions.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.fused import combine
from infifusion.merge.blocks.result import Merged
from infifusion.merge.blocks.sums import add_scaled, gram, sum_of_products


def combination(
    blocks: Blocks, coefficient_S: np.ndarray, *, base: float = 0.0, **details: float
) -> Merged:
    """base * theta_base + sum_s c_s theta_s."""
    factor_S = coefficient_S.astype(np.float32)
    plain = blocks.plain and not base

    def apply(block: Block) -> np.ndarray:
        if plain:
            out_P = block.empty()
            if not combine(block.stored_models, tuple(factor_S), out_P):
                block.require_finite()
            return out_P
        out_P = block.base_P * float(base) if base else np.zeros(block.size, np.float32)
        for factor, row_P in zip(factor_S, block.model_SP, strict=True):
            add_scaled(out_P, row_P, factor)
        return out_P

    return Merged(blocks, apply, dict(details))


def of_deltas(blocks: Blocks, coefficient_S: np.ndarray, **details: float) -> Merged:
    """base + sum_s c_s (theta_s - base); without a base, sum_s c_s theta_s."""
    if blocks.base is None:
        return combination(blocks, coefficient_S, **details)
    factor_S = coefficient_S.astype(np.float32)

    def apply(block: Block) -> np.ndarray:
        delta_SP, out_P = block.delta_SP, block.base_P
        for factor, row_P in zip(factor_S, delta_SP, strict=True):
            add_scaled(out_P, row_P, factor)
        return out_P

    return Merged(blocks, apply, dict(details))


def inner_products(
    blocks: Blocks, *, of: Literal["vectors", "models", "ends"] = "vectors"
) -> np.ndarray:
    """Inner products of the tensors, float64: [S, S].

    of: vectors (the deltas, or the models where there is no base), models, or ends (the base and
    the models).
    """
    rows = {
        "vectors": lambda block: block.vector_SP,
        "models": lambda block: block.model_SP,
        "ends": lambda block: block.end_SP,
    }[of]
    size = len(blocks.models) + (of == "ends")
    return blocks.total(lambda block, sums: gram(rows(block), sums), np.zeros((size, size)))


def row_products(a_MC: np.ndarray, b_MC: np.ndarray) -> np.ndarray:
    """Inner product of each pair of rows, float64: [M]."""
    pairs = zip(a_MC, b_MC, strict=True)
    return np.array([sum_of_products(a_C, b_C) for a_C, b_C in pairs], np.float64)
