"""Karcher mean: the point of the sphere with the least squared angle to all models.

Axes: S models.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from infifusion.merge.blocks.blocks import Blocks
from infifusion.merge.blocks.combination import combination, inner_products
from infifusion.merge.blocks.result import Merged
from infifusion.merge.methods.method import Method
from infifusion.strict import Strict


class Params(Strict):
    """Parameters of `karcher`."""

    max_iter: int = Field(default=10, ge=0)
    """Steps at most."""
    tol: float = Field(default=1e-5, gt=0)
    """A shorter step ends; a shorter vector has no direction, a smaller angle is none."""


def karcher(blocks: Blocks, params: Params) -> Merged:
    """mean(|v_s|) times the Karcher mean of v_s / |v_s|, all models alike. arXiv 2603.04972.

    Each step follows the mean tangent vector at the current point x,

        t = sum_s a_s theta_s / sin(theta_s) (u_s - cos(theta_s) x),   cos(theta_s) = u_s . x,
        x <- cos(|t|) x + sin(|t|) t / |t|

    Every x is a combination of the u_s, so that their inner products, one pass over the weights,
    are all that the iteration needs.
    """
    models = len(blocks.models)
    if models == 1:
        return combination(blocks, np.ones(1))
    products = inner_products(blocks, of="models")
    norm_S = np.sqrt(np.diag(products))
    valid_S = norm_S > params.tol
    if not valid_S.any():
        return combination(blocks, np.zeros(models))
    unit = products[np.ix_(valid_S, valid_S)] / np.outer(norm_S[valid_S], norm_S[valid_S])
    point = _mean_on_sphere(unit, params)
    coefficient_S = np.zeros(models)
    coefficient_S[valid_S] = float(norm_S.mean()) * point / norm_S[valid_S]
    return combination(blocks, coefficient_S)


def _mean_on_sphere(unit_SS: np.ndarray, params: Params) -> np.ndarray:
    """The mean as a combination of the unit vectors, whose inner products are given: [S]."""
    models = len(unit_SS)
    share = 1 / models
    x_S = np.full(models, share)
    length = _norm(unit_SS, x_S)
    x_S = x_S / length if length >= params.tol else np.eye(models)[0]
    for _ in range(params.max_iter):
        cosine_S = np.clip(unit_SS @ x_S, -1, 1)
        angle_S = np.arccos(cosine_S)
        # No direction leads to a vector that is here already, and every one to the opposite point.
        wide_S = (angle_S >= params.tol) & (angle_S <= np.pi - params.tol)
        factor_S = np.where(wide_S, share * angle_S / np.where(wide_S, np.sin(angle_S), 1), 0)
        tangent_S = factor_S - float(factor_S @ cosine_S) * x_S
        length = _norm(unit_SS, tangent_S)
        if length < params.tol:
            break
        x_S = np.cos(length) * x_S + np.sin(length) * tangent_S / length
        x_S = x_S / _norm(unit_SS, x_S)
    return x_S


def _norm(unit_SS: np.ndarray, x_S: np.ndarray) -> float:
    return float(np.sqrt(max(x_S @ unit_SS @ x_S, 0.0)))


KARCHER = Method(
    karcher,
    Params,
    line="Karcher mean: the point of the sphere with the least squared angle to all models.",
    paper="arXiv 2603.04972",
    base="unused",
)
