"""Model Breadcrumbs: leave out the largest and the smallest entries of each delta, add up."""

from __future__ import annotations

from pydantic import Field

from infifusion.merge.blocks.arithmetic import combine
from infifusion.merge.blocks.arrays import Array
from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.result import Merged, per_model
from infifusion.merge.blocks.select import largest
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
    return scatter(blocks, params, elect_sign=False)


def scatter(blocks: Blocks, params: Params, *, elect_sign: bool) -> Merged:
    """Of P entries floor(density P) are kept, after floor(gamma P) of the largest; density 1 keeps
    everything. Of equal magnitudes the earlier ones count as larger."""
    models = len(blocks.models)
    density_S = per_model(params.density, models, name="density", share=True)
    gamma_S = per_model(params.gamma, models, name="gamma", share=True)
    counts = [
        _window(blocks.size, float(d), float(g)) for d, g in zip(density_S, gamma_S, strict=True)
    ]
    borders = largest(blocks, lambda block: block.delta_SP, counts)

    def trimmed(block: Block) -> Array:
        delta_SP = block.delta_SP
        for row_P, (lower, upper) in zip(delta_SP, borders, strict=True):
            lower.trim_but(upper, block, row_P)
        return delta_SP

    return combine(
        blocks,
        trimmed,
        weight=params.weight,
        elect_sign=elect_sign,
        normalize=params.normalize,
        scale=params.lambda_,
        keep_norm=params.rescale,
    )


def _window(size: int, density: float, gamma: float) -> list[int]:
    """How many of the largest entries to take, and how many of those to leave out again."""
    if density >= 1:
        return [size, 0]
    kept = int(density * size)
    smallest = max(0, size - kept - int(gamma * size))
    return [size - smallest, size - smallest - kept]
