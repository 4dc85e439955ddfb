"""SCE of FuseChat: select by variance, calculate coefficients, erase minority signs.

Axes: S models, P positions of a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from infifusion.merge.blocks.adding import add_agreeing
from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.fused import add_agreeing_kept, add_kept_squares, variances_of
from infifusion.merge.blocks.masks import clear
from infifusion.merge.blocks.result import Merged
from infifusion.merge.blocks.select import Border, largest, largest_share
from infifusion.merge.blocks.sums import root_moments, sum_of_products, variance
from infifusion.merge.methods.method import Method
from infifusion.strict import Strict


class Params(Strict):
    """Parameters of `sce` and `sce_fusechat`."""

    select_topk: float = Field(default=1.0, ge=0, le=1)
    """Share of the positions with any variance that is kept, largest variance first. FuseChat takes
    0.1."""
    uniform_below: float = Field(default=0.0, ge=0)
    """Where the models' mean squares sum to less, their coefficients are equal. mergekit's value is
    1e-6, which ordinary fine-tuning is under; 0: only where all deltas are exactly 0."""


def sce(blocks: Blocks, params: Params) -> Merged:
    """Select floor(k #{v > 0}) positions by variance v over the models, then `fuse_selected`.

    FuseChat, arXiv 2408.07990 v1, section 3.3, as mergekit reads it: positions that are not kept
    stay at the base. With select_topk 1 every position is kept, those without variance too.
    """
    border = _select(blocks, params.select_topk)
    return fuse_selected(blocks, border, mask_deltas=True, uniform_below=params.uniform_below)


def sce_fusechat(blocks: Blocks, params: Params) -> Merged:
    """As `sce`, but every position is merged, also those that were not selected.

    FuseChat, arXiv 2408.07990 v1, section 3.3, and the authors' published code.
    """
    border = _select(blocks, params.select_topk)
    return fuse_selected(blocks, border, mask_deltas=False, uniform_below=params.uniform_below)


def _select(blocks: Blocks, share: float) -> Border:
    """Border of the largest variances: `share` of the positive ones; everything for share 1."""
    return Border(0, None) if share >= 1 else largest_share(blocks, variance_1P, share)


def variance_1P(block: Block) -> np.ndarray:
    """Population variance over the models, exactly 0 where the deltas are equal: [1, P]."""
    out_1P = np.empty((1, block.size), np.float32)
    if not block.blocks.plain:
        variance(block.delta_SP, out_1P[0])
    elif not variances_of(*block.stored, out_1P[0]):
        block.require_finite()
    return out_1P


@dataclass(frozen=True)
class Survey:
    """What one pass over the variances v finds: #{v > 0}, and the sums of x, x^2 and x^3 over these
    with x = sqrt(v) - centre."""

    positive: int
    centre: float
    powers: np.ndarray

    def border(self, blocks: Blocks, count: int) -> Border:
        """The border of the `count` largest variances."""
        ((border,),) = largest(blocks, variance_1P, [[count]])
        return border


def survey(blocks: Blocks) -> Survey:
    """One pass over the variances."""
    centre = 0.0
    if blocks.size:
        # Moments are taken about the mean of the first: about 0 they would lose their digits.
        (first_P,) = variance_1P(blocks.block(0))
        roots_P = np.sqrt(first_P[first_P > 0].astype(np.float64))
        centre = float(roots_P.mean()) if len(roots_P) else 0.0

    def add(block: Block, sums: np.ndarray) -> None:
        root_moments(variance_1P(block)[0], centre, sums)

    sums = blocks.total(add, np.zeros(4))
    return Survey(int(sums[0]), centre, sums[1:4])


def fuse_selected(
    blocks: Blocks, border: Border, *, mask_deltas: bool, uniform_below: float = 0.0
) -> Merged:
    """SCE's second and third step on the kept positions.

    Coefficient of a model: its sum of squares over the kept positions, normalised over the models;
    uniform where their mean squares sum to less than `uniform_below` or to exactly zero. Entries
    whose sign disagrees with the sum over the models are erased, and each position is divided by
    the coefficients that survive. mask_deltas: positions that are not kept stay at the base;
    otherwise the selection decides the coefficients alone.
    """
    models, plain = len(blocks.models), blocks.plain

    def trim(block: Block) -> int:
        """Set what is not selected to 0; how many positions are selected."""
        if border.bits == 0:
            return block.size
        mask_P = border.mask(block, variance_1P(block)[0])
        for row_P in block.delta_SP:
            clear(row_P, mask_P)
        return int(np.count_nonzero(mask_P))

    def add(block: Block, sums: np.ndarray) -> None:
        lowest = border.lowest(block)
        if plain and lowest is not None:
            if not add_kept_squares(*block.stored, lowest, sums):
                block.require_finite()
            return
        sums[models] += trim(block)
        for s, row_P in enumerate(block.delta_SP):
            sums[s] += sum_of_products(row_P, row_P)

    sums = blocks.total(add, np.zeros(models + 1))
    total = float(sums[:models].sum())
    uniform = total <= 0 or total / blocks.size < uniform_below
    coefficient_S = (np.full(models, 1 / models) if uniform else sums[:models] / total).astype(
        np.float32
    )
    votes_S = np.ones(models, np.float32)

    def apply(block: Block) -> np.ndarray:
        out_P = block.empty()
        lowest = border.lowest(block) if mask_deltas else np.uint32(0)
        if plain and lowest is not None:
            shares = tuple(votes_S), tuple(coefficient_S)
            add_agreeing_kept(*block.stored, lowest, *shares, out_P)
            return out_P
        if mask_deltas:
            trim(block)
        add_agreeing(
            block.base_P, block.delta_SP, votes_S, coefficient_S, True, np.float32(1), out_P
        )
        return out_P

    return Merged(
        blocks, apply, {"kept": int(sums[models]), "coefficients": coefficient_S.tolist()}
    )


def _uniform_as_mergekit(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"uniform_below": 1e-6}


SCE = Method(
    sce,
    Params,
    line="SCE of FuseChat: select by variance, calculate coefficients, erase minority signs.",
    paper="arXiv 2408.07990 v1",
    as_mergekit=_uniform_as_mergekit,
)
SCE_FUSECHAT = Method(
    sce_fusechat,
    Params,
    line="SCE as FuseChat's own code has it: the selection decides the coefficients alone.",
    paper="arXiv 2408.07990 v1",
)
