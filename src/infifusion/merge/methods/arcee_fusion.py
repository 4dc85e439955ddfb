"""Arcee Fusion: take over the entries of a model that are unusually important.

Axes: R rows, N positions of a row.
"""

from __future__ import annotations

import numpy as np

from infifusion.merge.blocks.arrays import Array, Arrays
from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.result import Merged
from infifusion.merge.blocks.select import LEADING, Score, largest
from infifusion.strict import Strict

SMOOTHING = 1e-8
QUARTILES = (0.25, 0.5, 0.75)


class Params(Strict):
    """Parameters of `arcee_fusion`: it has none."""


def arcee_fusion(blocks: Blocks, params: Params) -> Merged:
    """The model's value where its importance is at least median + 1.5 (Q3 - Q1), else the base's.

    Importance is |delta| times the row's KL(softmax(theta) || softmax(base)), both plus 1e-8; a row
    is the last dimension. The quartiles are those of the whole tensor, exactly (mergekit samples a
    million). Arcee AI, mergekit 0.1. Raises ValueError for another number of models than one and
    the base.
    """
    if len(blocks.models) != 1:
        raise ValueError(
            f"arcee_fusion takes a base and one model; found {len(blocks.models)} models. "
            "Leave the others out, or take ties or sce."
        )
    length = max(blocks.row, 1)
    rows, arrays = blocks.by_rows(), blocks.arrays

    def importance_1P(block: Block) -> Array:
        model_RN = arrays.float64(block.model_SP[0].reshape(-1, length))
        base_RN = arrays.float64(block.base_P.reshape(-1, length))
        p_RN = _softmax(arrays, model_RN) + SMOOTHING
        q_RN = _softmax(arrays, base_RN) + SMOOTHING
        kl_R1 = arrays.row_sum(p_RN * arrays.log(p_RN / q_RN)).clip(min=0)
        return arrays.float32(abs(model_RN - base_RN) * kl_R1).reshape(1, -1)

    low, median, high = _quartiles(rows, importance_1P)
    threshold = float(np.float32(median + 1.5 * (high - low)))

    def apply(block: Block) -> Array:
        mask_P = importance_1P(block)[0] >= threshold
        return arrays.where(mask_P, block.model_SP[0], block.base_P)

    return Merged(rows, apply, {"threshold": threshold})


def _softmax(arrays: Arrays, row_RN: Array) -> Array:
    raised_RN = arrays.exp(row_RN - arrays.row_max(row_RN))
    return raised_RN / arrays.row_sum(raised_RN)


def _quartiles(blocks: Blocks, score: Score) -> list[float]:
    """The q-quantile is the value of rank int(q (P - 1)), counted from the smallest, from 0."""
    ranks = [int(q * (blocks.size - 1)) for q in QUARTILES]
    if blocks.size <= LEADING:
        parts = blocks.collect(lambda block: blocks.arrays.get(score(block)[0]))
        ordered = np.sort(np.concatenate(parts or [[0.0]]))
        return [float(ordered[rank]) for rank in ranks]
    (borders,) = largest(blocks, score, [[blocks.size - rank for rank in ranks]])
    return [border.value for border in borders]
