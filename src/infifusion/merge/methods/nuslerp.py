"""NuSLERP: spherical interpolation of two models, or of their deltas, whole or row by row.

Axes: S = 2 models, M rows, C positions of a row.
"""

from __future__ import annotations

import numpy as np

from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.combination import inner_products, of_deltas, row_products
from infifusion.merge.blocks.result import Merged, per_model
from infifusion.merge.methods.method import Method
from infifusion.strict import Strict

# Vectors whose cosine has a square this near to 1 are interpolated linearly.
PARALLEL = 1e-16
SMALLEST_NORM = 1e-7


class Params(Strict):
    """Parameters of `nuslerp`."""

    weight: float | list[float] = 1.0
    """Weight of each of the two models; t is the second one's share."""
    nuslerp_flatten: bool = True
    """One angle for the whole tensor."""
    nuslerp_row_wise: bool = False
    """Without nuslerp_flatten: one angle per index of all dimensions but the first. By default one
    per index of all dimensions but the last."""


def nuslerp(blocks: Blocks, params: Params) -> Merged:
    """sin((1-t) a)/sin(a) v0 + sin(t a)/sin(a) v1, t = w1 / (w0 + w1).

    v are the models, or their deltas where there is a base, which is then added. Shoemake 1985;
    weights and rows as in mergekit 0.1. Raises ValueError for another number of models.
    """
    if len(blocks.models) != 2:
        raise ValueError(
            f"nuslerp goes between two models; found {len(blocks.models)}. Take "
            "multislerp or karcher "
            "for more."
        )
    weight_S = per_model(params.weight, 2, name="weight")
    total = float(weight_S.sum())
    t = 0.5 if abs(total) < 1e-6 else float(weight_S[1]) / total
    if params.nuslerp_flatten or len(blocks.shape) < 2:
        products = inner_products(blocks)
        first, second = arcs(products[0, 0], products[1, 1], products[0, 1], t=t)
        return of_deltas(blocks, np.array([first, second]))
    if params.nuslerp_row_wise:
        return _by_columns(blocks, t)
    return _by_rows(blocks, t)


def arcs(
    first_M: np.ndarray, second_M: np.ndarray, product_M: np.ndarray, *, t: float
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of both ends, from their squares and products: [M] each, or numbers."""
    norms_M = np.maximum(np.sqrt(first_M), SMALLEST_NORM) * np.maximum(
        np.sqrt(second_M), SMALLEST_NORM
    )
    cosine_M = np.clip(product_M / norms_M, -1, 1)
    parallel_M = 1 - np.square(cosine_M) <= PARALLEL
    angle_M = np.arccos(np.where(parallel_M, 0, cosine_M))
    sine_M = np.where(parallel_M, 1, np.sin(angle_M))
    return (
        np.where(parallel_M, 1 - t, np.sin((1 - t) * angle_M) / sine_M),
        np.where(parallel_M, t, np.sin(t * angle_M) / sine_M),
    )


def _by_rows(blocks: Blocks, t: float) -> Merged:
    length = blocks.row

    def apply(block: Block) -> np.ndarray:
        a_MC, b_MC = (row_P.reshape(-1, length) for row_P in block.vector_SP)
        pairs = ((a_MC, a_MC), (b_MC, b_MC), (a_MC, b_MC))
        found_M = arcs(*(row_products(x, y) for x, y in pairs), t=t)
        first_M, second_M = (c_M.astype(np.float32) for c_M in found_M)
        merged_MC = first_M[:, None] * a_MC + second_M[:, None] * b_MC
        return _finish(block, merged_MC.reshape(-1))

    return Merged(blocks.by_rows(), apply)


def _by_columns(blocks: Blocks, t: float) -> Merged:
    length = max(blocks.size // max(blocks.shape[0], 1), 1)
    rows = blocks.by_rows(length)

    def add(block: Block, sums_3C: np.ndarray) -> None:
        a_MC, b_MC = (row_P.reshape(-1, length) for row_P in block.vector_SP)
        for n, (x, y) in enumerate(((a_MC, a_MC), (b_MC, b_MC), (a_MC, b_MC))):
            sums_3C[n] += (x.astype(np.float64) * y.astype(np.float64)).sum(axis=0)

    found_C = arcs(*rows.total(add, np.zeros((3, length))), t=t)
    first_C, second_C = (c_C.astype(np.float32) for c_C in found_C)

    def apply(block: Block) -> np.ndarray:
        a_MC, b_MC = (row_P.reshape(-1, length) for row_P in block.vector_SP)
        return _finish(block, (first_C * a_MC + second_C * b_MC).reshape(-1))

    return Merged(rows, apply)


def _finish(block: Block, merged_P: np.ndarray) -> np.ndarray:
    return merged_P if block.blocks.base is None else block.base_P + merged_P


NUSLERP = Method(
    nuslerp,
    Params,
    line="NuSLERP: spherical interpolation of two models, or of their deltas, whole or row by row.",
    paper="Shoemake 1985; weights and rows as in mergekit 0.1",
    base="optional",
    by_rows=True,
)
