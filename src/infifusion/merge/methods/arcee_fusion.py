"""Arcee Fusion: take over the entries of a model that are unusually important.

Axes: M rows, C positions of a row.
"""

from __future__ import annotations

import numpy as np

from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.counts import LEADING
from infifusion.merge.blocks.result import Merged
from infifusion.merge.blocks.select import Score, largest
from infifusion.merge.methods.method import Method
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
    rows, length = blocks.by_rows(), blocks.row

    def importance_1P(block: Block) -> np.ndarray:
        model_MC = block.model_SP[0].reshape(-1, length).astype(np.float64)
        base_MC = block.base_P.reshape(-1, length).astype(np.float64)
        p_MC = _softmax(model_MC) + SMOOTHING
        q_MC = _softmax(base_MC) + SMOOTHING
        kl_M1 = (p_MC * np.log(p_MC / q_MC)).sum(axis=1, keepdims=True).clip(min=0)
        return (abs(model_MC - base_MC) * kl_M1).astype(np.float32).reshape(1, -1)

    low, median, high = _quartiles(rows, importance_1P)
    threshold = float(np.float32(median + 1.5 * (high - low)))

    def apply(block: Block) -> np.ndarray:
        mask_P = importance_1P(block)[0] >= threshold
        return np.where(mask_P, block.model_SP[0], block.base_P)

    return Merged(rows, apply, {"threshold": threshold})


def _softmax(row_MC: np.ndarray) -> np.ndarray:
    raised_MC = np.exp(row_MC - row_MC.max(axis=1, keepdims=True))
    return raised_MC / raised_MC.sum(axis=1, keepdims=True)


def _quartiles(blocks: Blocks, score: Score) -> list[float]:
    """The q-quantile is the value of rank int(q (P - 1)), counted from the smallest, from 0."""
    ranks = [int(q * (blocks.size - 1)) for q in QUARTILES]
    if blocks.size <= LEADING:
        parts = blocks.collect(lambda block: score(block)[0])
        ordered = np.sort(np.concatenate(parts or [[0.0]]))
        return [float(ordered[rank]) for rank in ranks]
    (borders,) = largest(blocks, score, [[blocks.size - rank for rank in ranks]])
    return [border.value for border in borders]


ARCEE_FUSION = Method(
    arcee_fusion,
    Params,
    line="Arcee Fusion: take over the entries of a model that are unusually important.",
    paper="Arcee AI; mergekit 0.1",
    by_rows=True,
)
