"""Model Stock: as far from the base towards the models' average as their angles suggest.

Axes: S models, R rows, N positions of a row.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from infifusion.merge.blocks.arrays import Array
from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.combination import inner_products, of_deltas
from infifusion.merge.blocks.result import Merged
from infifusion.strict import Strict

SMALLEST = 1e-6


class Params(Strict):
    """Parameters of `model_stock`."""

    filter_wise: bool = False
    """One ratio per row of the last dimension, not one per tensor."""


def model_stock(blocks: Blocks, params: Params) -> Merged:
    """t mean_s(theta_s) + (1 - t) base, t = S c / (1 + (S - 1) c), c the mean cosine of the deltas.

    arXiv 2403.19522 v1. Where the denominator vanishes the base stays. Raises ValueError for fewer
    than two models besides the base.
    """
    models = len(blocks.models)
    if models < 2:
        raise ValueError(
            f"model_stock needs a base and two models or more; found {models}. Add one, "
            "or take linear."
        )
    if params.filter_wise and len(blocks.shape) > 1:
        return _by_rows(blocks)
    products = inner_products(blocks, of="deltas")
    norms = np.sqrt(np.diag(products))
    t = float(ratio(_mean_cosine(products, norms), models))
    return of_deltas(blocks, np.full(models, t / models), t=t)


def ratio(cosine_R: np.ndarray, models: int) -> np.ndarray:
    """t of the paper's formula."""
    denominator_R = 1 + (models - 1) * cosine_R
    singular_R = np.abs(denominator_R) < SMALLEST
    return np.where(singular_R, 0, models * cosine_R / np.where(singular_R, 1, denominator_R))


def _mean_cosine(products: np.ndarray, norms: np.ndarray) -> np.ndarray:
    return np.mean(
        [
            np.clip(products[a, b] / max(norms[a] * norms[b], SMALLEST), -1, 1)
            for a, b in combinations(range(len(norms)), 2)
        ],
        axis=0,
    )


def _by_rows(blocks: Blocks) -> Merged:
    length, models = max(blocks.row, 1), len(blocks.models)
    row_products = blocks.arrays.row_products

    def apply(block: Block) -> Array:
        row_SRN = block.delta_SP.reshape(models, -1, length)
        norm_SR = np.sqrt([row_products(row_RN, row_RN) for row_RN in row_SRN])
        cosine_R = np.mean(
            [
                np.clip(
                    row_products(row_SRN[a], row_SRN[b])
                    / np.maximum(norm_SR[a] * norm_SR[b], SMALLEST),
                    -1,
                    1,
                )
                for a, b in combinations(range(models), 2)
            ],
            axis=0,
        )
        t_R = blocks.arrays.put((ratio(cosine_R, models) / models).astype(np.float32))
        total_P = block.zeros()
        for row_P in block.delta_SP:
            blocks.kernels.add_scaled(total_P, row_P, np.float32(1))
        return block.base_P + (t_R[:, None] * total_P.reshape(-1, length)).reshape(-1)

    return Merged(blocks.by_rows(), apply)
