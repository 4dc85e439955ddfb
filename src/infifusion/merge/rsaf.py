"""RSAF, Rate-Skewness Adaptive Fusion: SCE whose top-K ratio adapts per tensor. Reconstruction."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, model_validator

from infifusion.merge.result import Merged
from infifusion.merge.sce import fuse_selected, variance
from infifusion.merge.select import largest
from infifusion.strict import Strict

# Skewness of sqrt(v) when S deltas are independent Gaussians: sqrt(v) is then proportional to a
# chi variable with S - 1 degrees of freedom, whose skewness these are.
GAUSSIAN_SKEWNESS = {2: 0.995, 3: 0.631, 4: 0.486, 5: 0.406}


class Params(Strict):
    """Parameters of `rsaf`."""

    tau0: float = Field(default=0.5, gt=0)
    """Share of the positions with variance that is kept at Gaussian skewness, before the range is
    applied. Above 1 only tensors whose disagreement is concentrated are cut at all."""
    beta: float = 0.5
    """How strongly skewness changes the share; negative keeps more where disagreement is
    concentrated."""
    tau_min: float = Field(default=0.05, ge=0, le=1)
    tau_max: float = Field(default=1.0, ge=0, le=1)
    rule: Literal["adaptive", "rate_only", "skewness_only", "variation_rate", "energy"] = "adaptive"
    """adaptive: rate and skewness. rate_only: tau = tau0, so the ratio follows the rate alone.
    skewness_only: tau of adaptive, of all P positions. variation_rate: tau0 times RMS(delta) /
    RMS(base), relative to reference_variation. energy: the fewest positions that hold the share
    `energy` of the variance."""
    energy: float = Field(default=0.9, gt=0, le=1)
    """Share of sum(v) kept by the rule `energy`."""
    reference_variation: float = Field(default=0.01, gt=0)
    """RMS(delta) / RMS(base) at which `variation_rate` keeps tau0."""
    mask: Literal["deltas", "coefficients"] = "deltas"
    """As in `sce`."""

    @model_validator(mode="after")
    def _range_fits(self) -> Params:
        if self.tau_min > self.tau_max:
            raise ValueError(f"tau_min {self.tau_min} is above tau_max {self.tau_max}")
        return self


def rsaf(
    base_P: torch.Tensor,
    model_SP: torch.Tensor,
    params: Params,
    *,
    generator: torch.Generator | None = None,
) -> Merged:
    """Keep floor(tau #{v > 0}) positions, tau from the skewness of sqrt(v), then SCE.

    With delta_s = theta_s - base and v the population variance over the S models:

        rate      rho   = #{v > 0} / P
        skewness  gamma = third standardised moment of sqrt(v) where v > 0
        tau             = clip(tau0 exp(-beta (gamma - gamma0(S))), tau_min, tau_max)
        ratio           = kept / P, about rho tau

    gamma0 is the skewness of Gaussian deltas, so that RSAF then equals SCE at tau0. Zeros are kept
    out of the skewness because bf16 rounding alone leaves 10 to 90 % of small deltas at exactly 0.
    Source: InfiFusion, arXiv 2501.02795 v1 names the idea; the formula is not public to us, so
    this is our reconstruction. One model, or models that are all equal, have no variance: nothing
    is to be selected and every position is kept.
    """
    delta_SP = model_SP - base_P
    variance_P = variance(delta_SP)
    positive = int((variance_P > 0).sum())
    size = variance_P.numel()
    gamma = skewness(variance_P[variance_P > 0].sqrt())
    if positive == 0:
        kept_P = torch.ones_like(variance_P, dtype=torch.bool)
        tau = 1.0
    else:
        tau = _tau(params, base_P, delta_SP, variance_P, gamma)
        of = size if params.rule == "skewness_only" else positive
        # A full share keeps the positions without variance too: there all models agree.
        full = tau >= 1 and params.rule != "energy"
        count = size if full else min(positive, int(tau * of))
        kept_P = largest(variance_P, count)
    merged = fuse_selected(base_P, delta_SP, kept_P, mask=params.mask)
    kept = int(kept_P.sum())
    details = {
        "rate": positive / size if size else 0.0,
        "skewness": gamma,
        "tau": tau,
        "ratio": kept / size if size else 0.0,
        **merged.details,
    }
    return Merged(merged.tensor_P, details)


def skewness(value_P: torch.Tensor) -> float:
    """Third standardised moment, in float64; 0 for fewer than 3 values or no spread."""
    if value_P.numel() < 3:
        return 0.0
    value_P = value_P.double()
    centred_P = value_P - value_P.mean()
    spread = float(centred_P.square().mean().sqrt())
    if spread <= 1e-12 * float(value_P.abs().max()):
        return 0.0
    return float((centred_P / spread).pow(3).mean())


def gaussian_skewness(models: int) -> float:
    """gamma0: skewness of a chi variable with models - 1 degrees of freedom.

    mu = sqrt(2) Gamma((k + 1) / 2) / Gamma(k / 2), sigma^2 = k - mu^2,
    gamma = mu (1 - 2 sigma^2) / sigma^3.
    """
    if models in GAUSSIAN_SKEWNESS:
        return GAUSSIAN_SKEWNESS[models]
    freedom = max(models - 1, 1)
    mean = math.sqrt(2) * math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    spread = freedom - mean**2
    return mean * (1 - 2 * spread) / spread**1.5


def _tau(
    params: Params,
    base_P: torch.Tensor,
    delta_SP: torch.Tensor,
    variance_P: torch.Tensor,
    gamma: float,
) -> float:
    """Share of the positive variances to keep, within [tau_min, tau_max] but for `energy`."""
    if params.rule == "energy":
        descending_P = variance_P[variance_P > 0].double().sort(descending=True).values
        share_P = descending_P.cumsum(0) / descending_P.sum()
        # The first position at which the share is reached belongs to the set. Half a position
        # keeps int(tau * positive) exact whatever the division's rounding.
        count = int((share_P < params.energy - 1e-12).sum()) + 1
        return min(count + 0.5, len(descending_P)) / len(descending_P)
    tau = params.tau0
    if params.rule in ("adaptive", "skewness_only"):
        tau *= math.exp(-params.beta * (gamma - gaussian_skewness(len(delta_SP))))
    elif params.rule == "variation_rate":
        size = base_P.double().square().mean().sqrt()
        change = delta_SP.double().square().mean().sqrt()
        relative = float(change / size) if size > 0 else params.reference_variation
        tau *= relative / params.reference_variation
    return min(max(tau, params.tau_min), params.tau_max)
