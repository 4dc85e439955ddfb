"""DARE: drop a random share of each delta and rescale the rest, then add up."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from infifusion.merge.blocks.arithmetic import Rescale, combine
from infifusion.merge.blocks.arrays import Array
from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.kernels import mix
from infifusion.merge.blocks.result import Merged, per_model
from infifusion.strict import Strict


class Params(Strict):
    """Parameters of `dare_linear` and `dare_ties`."""

    weight: float | list[float] = 1.0
    """Weight of each model's delta."""
    density: float | list[float] = 1.0
    """Probability with which an entry is kept."""
    lambda_: float = Field(default=1.0, alias="lambda")
    """Factor on the merged delta."""
    normalize: bool = False
    """Divide by the sum of the weights that take part."""
    rescale: Rescale = True
    """true: divide what is kept by the density, so that its expectation is the delta, as the paper
    does. l1: scale it to the sum of magnitudes the delta had, as mergekit does."""


def dare_linear(blocks: Blocks, params: Params) -> Merged:
    """base + lambda * sum_s w_s drop(delta_s). arXiv 2311.03099 v3."""
    return dare(blocks, params, elect_sign=False)


def dare(blocks: Blocks, params: Params, *, elect_sign: bool) -> Merged:
    """Drop at random, then combine. The draws follow from the seed, the model's number and the
    position."""
    density_S = per_model(params.density, len(blocks.models), name="density", share=True).astype(
        np.float32
    )
    by_density = params.rescale is True

    kernels = blocks.kernels

    def dropped(block: Block) -> Array:
        delta_SP, draw_P = block.delta_SP, block.empty()
        for s, (row_P, density) in enumerate(zip(delta_SP, density_S, strict=True)):
            kernels.draw(model_seed(blocks.seed, s), block.start, draw_P)
            factor = np.float32(1) / density if by_density and density > 0 else np.float32(1)
            kernels.keep_drawn(row_P, draw_P, density, factor)
        return delta_SP

    return combine(
        blocks,
        dropped,
        weight=params.weight,
        elect_sign=elect_sign,
        normalize=params.normalize,
        scale=params.lambda_,
        keep_norm=params.rescale == "l1",
    )


def model_seed(seed: int, model: int) -> np.uint64:
    """A stream of draws of its own for each model."""
    return np.uint64(mix(np.uint64((seed + 0x632BE59BD9B4E019 * (model + 1)) % 2**64)))
