"""Multi-SLERP: the normalised mean of the directions, at the mean length.

Axes: S models.
"""

from __future__ import annotations

import numpy as np

from infifusion.merge.blocks.blocks import Blocks
from infifusion.merge.blocks.combination import inner_products, of_deltas
from infifusion.merge.blocks.result import Merged, per_model
from infifusion.merge.methods.method import Method
from infifusion.strict import Strict


class Params(Strict):
    """Parameters of `multislerp`."""

    weight: float | list[float] = 1.0
    """Weight of each model."""
    normalize_weights: bool = True
    """Divide the weights by their sum."""
    eps: float = 1e-8
    """Shorter vectors have no direction."""


def multislerp(blocks: Blocks, params: Params) -> Merged:
    """(sum_s w_s |v_s|) m / |m| with m = sum_s w_s v_s / |v_s|.

    v are the models, or their deltas where there is a base, which is then added. The method
    (goddard.blog, "Multi-SLERP", 2025) interpolates in the tangent space at m / |m|; the weighted
    tangent vectors add up to zero there by the definition of m, so that nothing else is left of it.
    One model is returned as it is. Where m vanishes, two models are averaged; for more a ValueError
    is raised.
    """
    weight_S = per_model(params.weight, len(blocks.models), name="weight")
    if len(blocks.models) == 1:
        return of_deltas(blocks, np.ones(1))
    if params.normalize_weights:
        if abs(weight_S.sum()) < 1e-8:
            raise ValueError("multislerp: the weights sum to zero. Change them.")
        weight_S = weight_S / weight_S.sum()
    products = inner_products(blocks)
    norm_S = np.sqrt(np.diag(products))
    direction_S = weight_S / (norm_S + params.eps)
    length = float(np.sqrt(max(direction_S @ products @ direction_S, 0.0)))
    if length < params.eps:
        if len(blocks.models) == 2:
            return of_deltas(blocks, weight_S)
        if not norm_S.any():
            return of_deltas(blocks, np.zeros(len(norm_S)))
        raise ValueError(
            "multislerp: the weighted directions of a tensor add up to zero. Change the weights."
        )
    return of_deltas(blocks, direction_S / length * float(norm_S @ weight_S))


MULTISLERP = Method(
    multislerp,
    Params,
    line="Multi-SLERP: the normalised mean of the directions, at the mean length.",
    paper='goddard.blog, "Multi-SLERP", 2025',
    base="optional",
)
