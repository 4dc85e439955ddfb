"""Model Breadcrumbs: leave out the largest and the smallest entries of each delta, add up."""

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
    """Parameters of `breadcrumbs` and `breadcrumbs_ties`."""

    weight: float | list[float] = 1.0
    """Weight of each model's delta."""
    density: float | list[float] = 1.0
    """Share of each delta's entries that is kept."""
    gamma: float | list[float] = 0.01
    """Share of the largest entries that is left out first; less where density leaves no room."""
    lambda_: float = Field(default=1.0, alias="lambda")
    """Factor on the merged delta."""
    normalize: bool = False
    """Divide by the sum of the weights that take part."""
    rescale: bool = False
    """Scale the kept deltas to the sum of magnitudes they had before."""


def breadcrumbs(blocks: Blocks, params: Params) -> Merged:
    """base + lambda * sum_s w_s mask_s delta_s. arXiv 2312.06795 v2."""
    return _breadcrumbs(blocks, params, elect_sign=False)


def breadcrumbs_ties(blocks: Blocks, params: Params) -> Merged:
    """base + lambda * sum over agreeing s of w_s mask_s delta_s. arXiv 2312.06795, 2306.01708."""
    return _breadcrumbs(blocks, params, elect_sign=True)


def _breadcrumbs(blocks: Blocks, params: Params, *, elect_sign: bool) -> Merged:
    """Of P entries floor(density P) are kept, after floor(gamma P) of the largest; density 1 keeps
    everything. Of equal magnitudes the earlier ones count as larger."""
    density_S = share_per_model(params.density, len(blocks.models), name="density")
    gamma_S = share_per_model(params.gamma, len(blocks.models), name="gamma")
    counts = [
        _window(blocks.size, float(d), float(g)) for d, g in zip(density_S, gamma_S, strict=True)
    ]
    borders = largest(blocks, lambda block: block.delta_SP, counts)

    def trim(block: Block, s: int, delta_P: np.ndarray) -> None:
        lower, upper = borders[s]
        lower.trim_but(upper, block, delta_P)

    return sum_deltas(blocks, params, trim, elect_sign=elect_sign, keep_norm=params.rescale)


def _window(size: int, density: float, gamma: float) -> list[int]:
    """How many of the largest entries to take, and how many of those to leave out again."""
    if density >= 1:
        return [size, 0]
    kept = int(density * size)
    smallest = max(0, size - kept - int(gamma * size))
    return [size - smallest, size - smallest - kept]


BREADCRUMBS = Method(
    breadcrumbs,
    Params,
    line="Model Breadcrumbs: leave out the largest and the smallest entries of each delta, add up.",
    paper="arXiv 2312.06795 v2",
)
BREADCRUMBS_TIES = Method(
    breadcrumbs_ties,
    Params,
    line="Model Breadcrumbs with TIES' sign election.",
    paper="arXiv 2312.06795 v2, 2306.01708 v2",
)
