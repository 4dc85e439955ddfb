"""DARE: drop a random share of each delta and rescale the rest, then add up."""

from __future__ import annotations

import torch
from pydantic import Field

from infifusion.merge.arithmetic import combine_deltas
from infifusion.merge.result import Merged, per_model
from infifusion.merge.select import random_share
from infifusion.strict import Strict


class Params(Strict):
    """Parameters of `dare_linear` and `dare_ties`."""

    weight: float | list[float] = 1.0
    """Weight of each model's delta."""
    density: float | list[float] = 0.5
    """Probability with which an entry is kept."""
    lambda_: float = Field(default=1.0, alias="lambda")
    """Factor on the merged delta."""
    normalize: bool = False
    """Divide by the sum of the weights that take part."""
    rescale: bool = True
    """Divide what is kept by the density, so that its expectation is the delta."""


def dare_linear(
    base_P: torch.Tensor,
    model_SP: torch.Tensor,
    params: Params,
    *,
    generator: torch.Generator | None = None,
) -> Merged:
    """base + lambda * sum_s w_s drop(delta_s). arXiv 2311.03099 v3. Needs a generator."""
    return Merged(
        combine_deltas(
            base_P,
            drop(model_SP - base_P, params, generator),
            per_model(params.weight, len(model_SP), name="weight"),
            elect_sign=False,
            normalize=params.normalize,
            scale=params.lambda_,
        )
    )


def drop(delta_SP: torch.Tensor, params: Params, generator: torch.Generator | None) -> torch.Tensor:
    """Each delta with entries kept at random and, if `rescale`, divided by the density."""
    if generator is None:
        raise ValueError("DARE draws at random: pass a torch.Generator.")
    densities = per_model(params.density, len(delta_SP), name="density")
    kept = []
    for delta_P, density in zip(delta_SP, densities, strict=True):
        mask_P = random_share(delta_P.numel(), density, generator, delta_P.device)
        factor = 1 / density if params.rescale and density > 0 else 1.0
        kept.append(torch.where(mask_P, delta_P * factor, 0))
    return torch.stack(kept)
