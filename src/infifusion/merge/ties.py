"""TIES: trim each delta to its largest entries, elect a sign, merge what agrees."""

from __future__ import annotations

import torch
from pydantic import Field

from infifusion.merge.arithmetic import combine_deltas
from infifusion.merge.result import Merged, per_model
from infifusion.merge.select import largest
from infifusion.strict import Strict


class Params(Strict):
    """Parameters of `ties`."""

    weight: float | list[float] = 1.0
    """Weight of each model's delta."""
    density: float | list[float] = 0.5
    """Share of each delta's entries that is kept, largest magnitudes first."""
    lambda_: float = Field(default=1.0, alias="lambda")
    """Factor on the merged delta."""
    normalize: bool = True
    """Divide by the sum of the weights that agree: the disjoint mean of the paper."""


def ties(
    base_P: torch.Tensor,
    model_SP: torch.Tensor,
    params: Params,
    *,
    generator: torch.Generator | None = None,
) -> Merged:
    """base + lambda * disjoint mean of the trimmed deltas. arXiv 2306.01708 v2.

    Of P entries max(1, floor(density P)) are kept per model. The sign elected is that of the
    weighted sum.
    """
    delta_SP = model_SP - base_P
    densities = per_model(params.density, len(model_SP), name="density")
    trimmed_SP = torch.stack([trim(d, k) for d, k in zip(delta_SP, densities, strict=True)])
    return Merged(
        combine_deltas(
            base_P,
            trimmed_SP,
            per_model(params.weight, len(model_SP), name="weight"),
            elect_sign=True,
            normalize=params.normalize,
            scale=params.lambda_,
        )
    )


def trim(delta_P: torch.Tensor, density: float) -> torch.Tensor:
    """The delta with all but its largest magnitudes set to 0."""
    count = 0 if density <= 0 else max(1, int(density * delta_P.numel()))
    return torch.where(largest(delta_P.abs(), count), delta_P, 0)
