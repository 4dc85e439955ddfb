"""RSAF, Rate-Skewness Adaptive Fusion: SCE whose top-K ratio adapts per tensor. Reconstruction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.counts import (
    LEADING,
    TRAILING,
    TURNS,
    between,
    count_leading,
    sum_leading,
)
from infifusion.merge.blocks.result import Merged
from infifusion.merge.blocks.select import Border
from infifusion.merge.blocks.sums import sum_of_products
from infifusion.merge.methods.method import Method
from infifusion.merge.methods.sce import Survey, fuse_selected, survey, variance_1P
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
    """The smallest share that skewness can lead to."""
    tau_max: float = Field(default=1.0, ge=0, le=1)
    """The largest one; a share of 1 keeps the positions without variance too."""
    rule: Literal["adaptive", "variation_rate", "energy"] = "adaptive"
    """adaptive: by rate and skewness. variation_rate: tau0 times RMS(delta) / RMS(base), relative
    to reference_variation. energy: the fewest positions that hold the share `energy` of the
    variance."""
    energy: float = Field(default=0.9, gt=0, le=1)
    """Share of sum(v) kept by the rule `energy`."""
    reference_variation: float = Field(default=0.01, gt=0)
    """RMS(delta) / RMS(base) at which `variation_rate` keeps tau0."""
    mask: Literal["deltas", "coefficients"] = "deltas"
    """deltas: positions that are not kept stay at the base (`sce`). coefficients: the selection
    decides the coefficients alone (`sce_fusechat`)."""
    tau: float | None = Field(default=None, ge=0, le=1)
    """The share itself, whatever the rule says."""

    @model_validator(mode="after")
    def _range_fits(self) -> Params:
        if self.tau_min > self.tau_max:
            raise ValueError(f"tau_min {self.tau_min} is above tau_max {self.tau_max}; swap them")
        return self


def rsaf(blocks: Blocks, params: Params) -> Merged:
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
    found = measure(blocks, params)
    positive = found.survey.positive
    # A full share keeps the positions without variance too: there all models agree.
    if positive == 0 or (found.tau >= 1 and params.rule != "energy"):
        return keep(blocks, params, found, None)
    return keep(blocks, params, found, int(found.tau * positive))


@dataclass(frozen=True)
class Measured:
    """One tensor's statistics; tau is the share that the rule gives it."""

    size: int
    models: int
    survey: Survey
    tau: float

    @property
    def rate(self) -> float:
        """rho."""
        return self.survey.positive / self.size if self.size else 0.0

    @property
    def skewness(self) -> float:
        """gamma."""
        return skewness(raw_powers(self.survey))


def keep(blocks: Blocks, params: Params, found: Measured, count: int | None) -> Merged:
    """SCE's second and third step on the `count` positions of the largest variance, no more than
    have any; None: on all positions."""
    border = Border(0, None)
    if count is not None:
        border = found.survey.border(blocks, min(count, found.survey.positive))
    merged = fuse_selected(blocks, border, mask_deltas=params.mask == "deltas")
    details = {
        "rate": found.rate,
        "skewness": found.skewness,
        "tau": found.tau,
        "ratio": float(merged.details["kept"]) / blocks.size if blocks.size else 0.0,  # type: ignore[arg-type]
        **merged.details,
    }
    return Merged(blocks, merged.apply, details)


def measure(blocks: Blocks, params: Params) -> Measured:
    """One pass: the statistics of a tensor and the share its rule gives."""
    found = survey(blocks)
    if params.tau is not None:
        tau = params.tau
    elif found.positive == 0:
        tau = 1.0
    elif params.rule == "energy":
        tau = _energy_share(blocks, params, found)
    else:
        tau = _tau(blocks, params, skewness(raw_powers(found)))
    return Measured(blocks.size, len(blocks.models), found, tau)


def _tau(blocks: Blocks, params: Params, gamma: float) -> float:
    """Share of the positive variances to keep, within [tau_min, tau_max]."""
    if params.rule == "variation_rate":
        base, change = _squares(blocks)
        relative = math.sqrt(change / base) if base > 0 else params.reference_variation
        tau = params.tau0 * relative / params.reference_variation
        return min(max(tau, params.tau_min), params.tau_max)
    return clip_tau(params, gamma, len(blocks.models))


def clip_tau(params: Params, gamma: float, models: int) -> float:
    """clip(tau0 exp(-beta (gamma - gamma0)), tau_min, tau_max)."""
    tau = params.tau0 * math.exp(-params.beta * (gamma - gaussian_skewness(models)))
    return min(max(tau, params.tau_min), params.tau_max)


def _squares(blocks: Blocks) -> tuple[float, float]:
    """Mean square of the base, and of the deltas."""

    def add(block: Block, sums: np.ndarray) -> None:
        sums[0] += sum_of_products(block.base_P, block.base_P)
        for delta_P in block.delta_SP:
            sums[1] += sum_of_products(delta_P, delta_P)

    base, change = blocks.total(add, np.zeros(2))
    return base / blocks.size, change / blocks.size / len(blocks.models)


def _energy_share(blocks: Blocks, params: Params, found: Survey) -> float:
    """tau of the rule `energy`: the fewest of the positive variances that hold the share.

    The histogram of sums finds the leading part in which the share is reached; the values that
    have it are added up one by one, largest first.
    """

    def add(block: Block, sums: np.ndarray) -> None:
        (variance_P,) = variance_1P(block)
        bits_P = variance_P.view(np.uint32)
        sum_leading(bits_P, variance_P, sums[0])
        count_leading(bits_P, sums[1:])

    sums, *turns = blocks.total(add, np.zeros((1 + TURNS, LEADING)))
    counts = np.sum(turns, axis=0)
    total = float(sums.sum())
    target = params.energy * total - 1e-12 * total
    from_top = np.cumsum(sums[::-1])
    place = min(int(np.searchsorted(from_top, target)), LEADING - 1)
    bin_ = LEADING - 1 - place
    above = float(from_top[place] - sums[bin_])
    low = bin_ << 15

    def inside(block: Block) -> np.ndarray:
        # A positive float is the larger the larger its bits are; 1 is the smallest above 0.
        return between(variance_1P(block)[0], max(low, 1), low + TRAILING - 1)

    found_bits = np.concatenate(blocks.collect(inside))
    values = np.sort(found_bits.view(np.float32).astype(np.float64))[::-1]
    reached = int(np.searchsorted(above + np.cumsum(values), target)) + 1
    count = int(counts[bin_ + 1 :].sum()) + min(reached, len(values))
    # Half a position more keeps int(tau * positive) exact whatever the division's rounding.
    return min(count + 0.5, found.positive) / found.positive


def raw_powers(found: Survey) -> np.ndarray:
    """#{v > 0} and the sums of sqrt(v), v and v^1.5 over them: [4], which add up over tensors."""
    n, c = found.positive, found.centre
    x1, x2, x3 = (float(p) for p in found.powers)
    return np.array(
        [
            n,
            x1 + n * c,
            x2 + 2 * c * x1 + n * c**2,
            x3 + 3 * c * x2 + 3 * c**2 * x1 + n * c**3,
        ]
    )


def skewness(powers: np.ndarray) -> float:
    """Third standardised moment from n and the sums of x, x^2 and x^3; 0 for fewer than 3 values
    or a spread under a millionth of the mean, which is rounding."""
    n, x1, x2, x3 = (float(p) for p in powers)
    if n < 3:
        return 0.0
    mean = x1 / n
    spread = math.sqrt(max(x2 / n - mean**2, 0.0))
    if spread <= 1e-6 * abs(mean):
        return 0.0
    return (x3 / n - 3 * mean * x2 / n + 2 * mean**3) / spread**3


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


RSAF = Method(
    rsaf,
    Params,
    line="RSAF, Rate-Skewness Adaptive Fusion: SCE whose top-K ratio adapts per tensor. "
    "Reconstruction.",
    paper="arXiv 2501.02795 v1 (the idea)",
)
