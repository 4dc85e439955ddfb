"""Model Stock: as far from the base towards the models' average as their angles suggest.

Axes: S models, M rows, C positions of a row.
"""

from __future__ import annotations

from itertools import combinations, combinations_with_replacement

import numpy as np

from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.combination import inner_products, of_deltas, row_products
from infifusion.merge.blocks.result import Merged
from infifusion.merge.blocks.sums import add_scaled
from infifusion.merge.methods.method import Method
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
    t = float(ratio(_mean_cosine(inner_products(blocks)), models))
    return of_deltas(blocks, np.full(models, t / models), t=t)


def ratio(cosine_M: np.ndarray, models: int) -> np.ndarray:
    """t of the paper's formula."""
    denominator_M = 1 + (models - 1) * cosine_M
    singular_M = np.abs(denominator_M) < SMALLEST
    return np.where(singular_M, 0, models * cosine_M / np.where(singular_M, 1, denominator_M))


def _mean_cosine(products: np.ndarray) -> np.ndarray:
    """Over the pairs of models, from their inner products: [S, S], or [S, S, M] of M rows."""
    norms = np.sqrt([products[s, s] for s in range(len(products))])
    return np.mean(
        [
            np.clip(products[a, b] / np.maximum(norms[a] * norms[b], SMALLEST), -1, 1)
            for a, b in combinations(range(len(products)), 2)
        ],
        axis=0,
    )


def _by_rows(blocks: Blocks) -> Merged:
    length, models = blocks.row, len(blocks.models)

    def apply(block: Block) -> np.ndarray:
        delta_SMC = block.delta_SP.reshape(models, -1, length)
        products_SSM = np.zeros((models, models, delta_SMC.shape[1]))
        for a, b in combinations_with_replacement(range(models), 2):
            products_SSM[a, b] = row_products(delta_SMC[a], delta_SMC[b])
        t_M = (ratio(_mean_cosine(products_SSM), models) / models).astype(np.float32)
        total_P = np.zeros(block.size, np.float32)
        for delta_P in block.delta_SP:
            add_scaled(total_P, delta_P, np.float32(1))
        return block.base_P + (t_M[:, None] * total_P.reshape(-1, length)).reshape(-1)

    return Merged(blocks.by_rows(), apply)


MODEL_STOCK = Method(
    model_stock,
    Params,
    line="Model Stock: as far from the base towards the models' average as their angles suggest.",
    paper="arXiv 2403.19522 v1",
    by_rows=True,
)
