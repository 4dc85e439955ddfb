"""DELLA: drop entries with a chance that falls with their rank in the row, then add up."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from infifusion.merge.blocks.arithmetic import Rescale, combine
from infifusion.merge.blocks.arrays import Array
from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.result import Merged, per_model
from infifusion.merge.methods.dare_linear import model_seed
from infifusion.strict import Strict


class Params(Strict):
    """Parameters of `della_linear`."""

    weight: float | list[float] = 1.0
    """Weight of each model's delta."""
    density: float | list[float] = 1.0
    """Mean probability with which an entry is kept."""
    epsilon: float | list[float] = 0.15
    """The smallest entry of a row is kept with density - epsilon, the largest with + epsilon."""
    lambda_: float = Field(default=1.0, alias="lambda")
    """Factor on the merged delta."""
    normalize: bool = False
    """Divide by the sum of the weights that take part."""
    rescale: Rescale = True
    """true: divide each kept entry by its probability, as the paper does. l1: scale what is kept to
    the sum of magnitudes the delta had, as mergekit does."""


def della_linear(blocks: Blocks, params: Params) -> Merged:
    """base + lambda * sum_s w_s magprune(delta_s). arXiv 2406.11617 v1."""
    return della_merge(blocks, params, elect_sign=False)


def della_merge(blocks: Blocks, params: Params, *, elect_sign: bool) -> Merged:
    """The entry of rank r (0: smallest magnitude) in a row of N is kept with probability
    density - epsilon + 2 epsilon r / (N - 1); equal magnitudes rank by position. A row is the last
    dimension, a vector is one row. density 1 keeps, 0 drops everything. Raises ValueError when
    density +- epsilon leaves (0, 1).
    """
    density_S = per_model(params.density, len(blocks.models), name="density", share=True).astype(
        np.float32
    )
    epsilon_S = per_model(params.epsilon, len(blocks.models), name="epsilon", share=True).astype(
        np.float32
    )
    for density, epsilon in zip(density_S, epsilon_S, strict=True):
        if 0 < density < 1 and not 0 < density - epsilon <= density + epsilon < 1:
            raise ValueError(
                f"della: density {density:g} with epsilon {epsilon:g} gives probabilities outside "
                "(0, 1). Choose a smaller epsilon."
            )
    length = max(blocks.row, 1)
    arrays, kernels = blocks.arrays, blocks.kernels

    def pruned(block: Block) -> Array:
        delta_SP = block.delta_SP
        key_RN = arrays.keys(block.size // length, length)
        draw_P = block.empty()
        for s, (density, epsilon) in enumerate(zip(density_S, epsilon_S, strict=True)):
            row_RN = delta_SP[s].reshape(-1, length)
            if density <= 0:
                row_RN[:] = 0
            elif density < 1:
                kernels.rank_keys(row_RN, key_RN)
                arrays.sort_rows(key_RN)
                kernels.draw(model_seed(blocks.seed, s), block.start, draw_P)
                kernels.keep_by_rank(
                    key_RN,
                    draw_P.reshape(-1, length),
                    row_RN,
                    density - epsilon,
                    density + epsilon,
                    params.rescale is True,
                )
        return delta_SP

    return combine(
        blocks.by_rows(),
        pruned,
        weight=params.weight,
        elect_sign=elect_sign,
        normalize=params.normalize,
        scale=params.lambda_,
        keep_norm=params.rescale == "l1",
    )
