"""TIES: trim each delta to its largest entries, elect a sign, merge what agrees."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.deltas import sum_deltas
from infifusion.merge.blocks.result import Merged, share_per_model
from infifusion.merge.blocks.select import largest
from infifusion.merge.methods.method import Method
from infifusion.strict import Strict


class Params(Strict):
    """Parameters of `ties`."""

    weight: float | list[float] = 1.0
    """Weight of each model's delta."""
    density: float | list[float] = 1.0
    """Share of each delta's entries that is kept, largest magnitudes first."""
    lambda_: float = Field(default=1.0, alias="lambda")
    """Factor on the merged delta."""
    normalize: bool = True
    """Divide by the sum of the weights that agree: the disjoint mean of the paper."""
    rescale: bool = False
    """Scale the kept deltas to the sum of magnitudes they had before."""


def ties(blocks: Blocks, params: Params) -> Merged:
    """base + lambda * disjoint mean of the trimmed deltas. arXiv 2306.01708 v2.

    Of P entries max(1, floor(density P)) are kept per model; of equal magnitudes at the border the
    earlier ones. The sign elected is that of the weighted sum.
    """
    density_S = share_per_model(params.density, len(blocks.models), name="density")
    counts = [[kept_of(blocks.size, float(density))] for density in density_S]
    borders = largest(blocks, lambda block: block.delta_SP, counts)

    def trim(block: Block, s: int, delta_P: np.ndarray) -> None:
        borders[s][0].trim(block, delta_P)

    def smallest(block: Block) -> list[np.float32] | None:
        found = [border.smallest(block) for (border,) in borders]
        listed = [one for one in found if one is not None]
        return listed if len(listed) == len(found) else None

    return sum_deltas(
        blocks, params, trim, smallest=smallest, elect_sign=True, keep_norm=params.rescale
    )


def kept_of(size: int, density: float) -> int:
    """How many of `size` entries a density keeps: at least one, unless it is 0."""
    return 0 if density <= 0 else min(size, max(1, int(density * size)))


TIES = Method(
    ties,
    Params,
    line="TIES: trim each delta to its largest entries, elect a sign, merge what agrees.",
    paper="arXiv 2306.01708 v2",
)
