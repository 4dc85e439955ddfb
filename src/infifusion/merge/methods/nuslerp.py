"""NuSLERP: spherical interpolation of two models, or of their deltas, whole or row by row.

Axes: S = 2 models, R rows, N positions of a row.
"""

from __future__ import annotations

import numpy as np

from infifusion.merge.blocks.arrays import Array
from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.combination import inner_products, of_deltas
from infifusion.merge.blocks.result import Merged, per_model
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
        of = "models" if blocks.base is None else "deltas"
        products = inner_products(blocks, of=of)
        first, second = arcs(products[0, 0], products[1, 1], products[0, 1], t=t)
        return of_deltas(blocks, np.array([first, second]))
    if params.nuslerp_row_wise:
        return _by_columns(blocks, t)
    return _by_rows(blocks, t)


def arcs(
    first_R: np.ndarray, second_R: np.ndarray, product_R: np.ndarray, *, t: float
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of both ends, from their squares and products: [R] each, or numbers."""
    norms_R = np.maximum(np.sqrt(first_R), SMALLEST_NORM) * np.maximum(
        np.sqrt(second_R), SMALLEST_NORM
    )
    cosine_R = np.clip(product_R / norms_R, -1, 1)
    parallel_R = 1 - np.square(cosine_R) <= PARALLEL
    angle_R = np.arccos(np.where(parallel_R, 0, cosine_R))
    sine_R = np.where(parallel_R, 1, np.sin(angle_R))
    return (
        np.where(parallel_R, 1 - t, np.sin((1 - t) * angle_R) / sine_R),
        np.where(parallel_R, t, np.sin(t * angle_R) / sine_R),
    )


def _by_rows(blocks: Blocks, t: float) -> Merged:
    length, arrays = max(blocks.row, 1), blocks.arrays

    def apply(block: Block) -> Array:
        a_RN, b_RN = (row_P.reshape(-1, length) for row_P in _vectors(block))
        pairs = ((a_RN, a_RN), (b_RN, b_RN), (a_RN, b_RN))
        found_R = arcs(*(arrays.row_products(x, y) for x, y in pairs), t=t)
        first_R, second_R = (arrays.put(c_R.astype(np.float32)) for c_R in found_R)
        merged_RN = first_R[:, None] * a_RN + second_R[:, None] * b_RN
        return _finish(block, merged_RN.reshape(-1))

    return Merged(blocks.by_rows(), apply)


def _by_columns(blocks: Blocks, t: float) -> Merged:
    length = max(blocks.size // max(blocks.shape[0], 1), 1)
    rows, arrays = blocks.by_rows(length), blocks.arrays

    def add(block: Block, sums_3N: np.ndarray) -> None:
        a_RN, b_RN = (row_P.reshape(-1, length) for row_P in _vectors(block))
        for n, (x, y) in enumerate(((a_RN, a_RN), (b_RN, b_RN), (a_RN, b_RN))):
            sums_3N[n] += arrays.column_products(x, y)

    found_N = arcs(*rows.total(add, np.zeros((3, length))), t=t)
    first_N, second_N = (arrays.put(c_N.astype(np.float32)) for c_N in found_N)

    def apply(block: Block) -> Array:
        a_RN, b_RN = (row_P.reshape(-1, length) for row_P in _vectors(block))
        return _finish(block, (first_N * a_RN + second_N * b_RN).reshape(-1))

    return Merged(rows, apply)


def _vectors(block: Block) -> Array:
    return block.model_SP if block.blocks.base is None else block.delta_SP


def _finish(block: Block, merged_P: Array) -> Array:
    return merged_P if block.blocks.base is None else block.base_P + merged_P
