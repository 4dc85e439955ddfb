"""Base plus the weighted sum of the deltas."""

from __future__ import annotations

import torch
from pydantic import Field

from infifusion.merge.arithmetic import combine_deltas
from infifusion.merge.result import Merged, per_model
from infifusion.strict import Strict


class Params(Strict):
    """Parameters of `task_arithmetic`."""

    weight: float | list[float] = 1.0
    """Weight of each model's delta."""
    lambda_: float = Field(default=1.0, alias="lambda")
    """Factor on the merged delta."""
    normalize: bool = False
    """Divide by the sum of the weights."""


def task_arithmetic(
    base_P: torch.Tensor,
    model_SP: torch.Tensor,
    params: Params,
    *,
    generator: torch.Generator | None = None,
) -> Merged:
    """base + lambda * sum_s w_s (theta_s - base). arXiv 2212.04089 v3."""
    return Merged(
        combine_deltas(
            base_P,
            model_SP - base_P,
            per_model(params.weight, len(model_SP), name="weight"),
            elect_sign=False,
            normalize=params.normalize,
            scale=params.lambda_,
        )
    )
