"""Weighted average of the models."""

from __future__ import annotations

import torch

from infifusion.merge.result import Merged, column, per_model
from infifusion.strict import Strict


class Params(Strict):
    """Parameters of `linear`."""

    weight: float | list[float] = 1.0
    """Weight of each model."""
    normalize: bool = True
    """Divide by the sum of the weights."""


def linear(
    base_P: torch.Tensor | None,
    model_SP: torch.Tensor,
    params: Params,
    *,
    generator: torch.Generator | None = None,
) -> Merged:
    """sum_s w_s theta_s / sum_s w_s. The base takes no part.

    Model Soups, arXiv 2203.05482 v3. Raises ValueError when the weights sum to zero.
    """
    weight_S1 = column(per_model(params.weight, len(model_SP), name="weight"), model_SP)
    total = float(weight_S1.sum())
    if params.normalize and abs(total) < 1e-8:
        raise ValueError("linear: the weights sum to zero. Change them, or set normalize: false.")
    merged_P = (weight_S1 * model_SP).sum(dim=0)
    return Merged(merged_P / total if params.normalize else merged_P)
