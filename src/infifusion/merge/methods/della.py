"""DELLA: drop entries with a chance that falls with their rank in the row, then add up.

Axes: S models, P positions of a block, M rows of C positions.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.deltas import Rescale, sum_deltas
from infifusion.merge.blocks.draws import draw, keep_by_rank, rank_keys
from infifusion.merge.blocks.result import Merged, share_per_model
from infifusion.merge.methods.dare import model_seed, rescale_as_mergekit
from infifusion.merge.methods.method import Method
from infifusion.strict import Strict


class LinearParams(Strict):
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


class Params(LinearParams):
    """Parameters of `della`."""

    normalize: bool = True
    """Divide by the sum of the weights that agree."""


def della_linear(blocks: Blocks, params: LinearParams) -> Merged:
    """base + lambda * sum_s w_s magprune(delta_s). arXiv 2406.11617 v1."""
    return _della(blocks, params, elect_sign=False)


def della(blocks: Blocks, params: Params) -> Merged:
    """base + lambda * mean over agreeing s of w_s magprune(delta_s). arXiv 2406.11617 v1."""
    return _della(blocks, params, elect_sign=True)


def _della(blocks: Blocks, params: LinearParams, *, elect_sign: bool) -> Merged:
    """The entry of rank r (0: smallest magnitude) in a row of C is kept with probability
    density - epsilon + 2 epsilon r / (C - 1); equal magnitudes rank by position. A row is the last
    dimension, a vector is one row. density 1 keeps, 0 drops everything. Raises ValueError when
    density +- epsilon leaves (0, 1).
    """
    models, length = len(blocks.models), blocks.row
    density_S = share_per_model(params.density, models, name="density").astype(np.float32)
    epsilon_S = share_per_model(params.epsilon, models, name="epsilon").astype(np.float32)
    for density, epsilon in zip(density_S, epsilon_S, strict=True):
        if 0 < density < 1 and not 0 < density - epsilon <= density + epsilon < 1:
            raise ValueError(
                f"della: density {density:g} with epsilon {epsilon:g} gives probabilities outside "
                "(0, 1). Choose a smaller epsilon."
            )

    def prune(block: Block, s: int, delta_P: np.ndarray) -> None:
        density, epsilon = density_S[s], epsilon_S[s]
        if density <= 0:
            delta_P[:] = 0
        elif density < 1:
            row_MC, draw_P = delta_P.reshape(-1, length), block.empty()
            key_MC = np.empty(row_MC.shape, np.uint64)
            rank_keys(row_MC, key_MC)
            key_MC.sort(axis=1)
            draw(model_seed(blocks.seed, s), block.start, draw_P)
            lowest, highest = density - epsilon, density + epsilon
            draw_MC = draw_P.reshape(-1, length)
            keep_by_rank(key_MC, draw_MC, row_MC, lowest, highest, params.rescale is True)

    return sum_deltas(
        blocks.by_rows(), params, prune, elect_sign=elect_sign, keep_norm=params.rescale == "l1"
    )


DELLA = Method(
    della,
    Params,
    line="DELLA with TIES' sign election.",
    paper="arXiv 2406.11617 v1",
    by_rows=True,
    nanoseconds=14.0,
    as_mergekit=rescale_as_mergekit,
)
DELLA_LINEAR = Method(
    della_linear,
    LinearParams,
    line="DELLA: drop entries with a chance that falls with their rank in the row, then add up.",
    paper="arXiv 2406.11617 v1",
    by_rows=True,
    nanoseconds=14.0,
    as_mergekit=rescale_as_mergekit,
)
