"""Weighted average of the models."""

from __future__ import annotations

from infifusion.merge.blocks.blocks import Blocks
from infifusion.merge.blocks.combination import combination
from infifusion.merge.blocks.result import Merged, per_model
from infifusion.merge.methods.method import Method
from infifusion.strict import Strict


class Params(Strict):
    """Parameters of `linear`."""

    weight: float | list[float] = 1.0
    """Weight of each model."""
    normalize: bool = True
    """Divide by the sum of the weights."""


def linear(blocks: Blocks, params: Params) -> Merged:
    """sum_s w_s theta_s / sum_s w_s. The base takes no part.

    Model Soups, arXiv 2203.05482 v3. Raises ValueError when the weights sum to zero.
    """
    weight_S = per_model(params.weight, len(blocks.models), name="weight")
    total = float(weight_S.sum())
    if params.normalize and abs(total) < 1e-8:
        raise ValueError("linear: the weights sum to zero. Change them, or set normalize: false.")
    return combination(blocks, weight_S / total if params.normalize else weight_S)


LINEAR = Method(
    linear,
    Params,
    line="Weighted average of the models.",
    paper="arXiv 2203.05482 v3",
    base="unused",
    unlisted_base="joins_with_weight",
    nanoseconds=2.0,
)
