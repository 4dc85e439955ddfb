"""SCE of FuseChat: select by variance, calculate coefficients, erase minority signs."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from infifusion.merge.result import Merged
from infifusion.merge.select import largest
from infifusion.merge.sign import agrees_with_majority
from infifusion.strict import Strict


class Params(Strict):
    """Parameters of `sce`."""

    select_topk: float = Field(default=0.1, ge=0, le=1)
    """Share of the positions with any variance that is kept, largest variance first."""
    mask: Literal["deltas", "coefficients"] = "deltas"
    """deltas: positions that are not kept stay at the base, as mergekit does. coefficients: the
    selection decides only the coefficients, as FuseChat's own code does."""


def sce(
    base_P: torch.Tensor,
    model_SP: torch.Tensor,
    params: Params,
    *,
    generator: torch.Generator | None = None,
) -> Merged:
    """Select floor(k #{v > 0}) positions by variance v over the models, then `fuse_selected`.

    FuseChat, arXiv 2408.07990 v1, section 3.3. With select_topk 1 every position is kept, those
    without variance too.
    """
    delta_SP = model_SP - base_P
    kept_P = select(variance(delta_SP), params.select_topk)
    return fuse_selected(base_P, delta_SP, kept_P, mask=params.mask)


def variance(delta_SP: torch.Tensor) -> torch.Tensor:
    """Population variance over the models at each position: [P].

    Deltas that are exactly equal have variance exactly 0, whatever the rounding of their mean.
    """
    variance_P = (delta_SP - delta_SP.mean(dim=0)).square().mean(dim=0)
    return torch.where((delta_SP == delta_SP[0]).all(dim=0), 0, variance_P)


def select(variance_P: torch.Tensor, share: float) -> torch.Tensor:
    """Mask of the largest variances: `share` of the positive ones; everything for share 1."""
    if share >= 1:
        return torch.ones_like(variance_P, dtype=torch.bool)
    return largest(variance_P, int(share * int((variance_P > 0).sum())))


def fuse_selected(
    base_P: torch.Tensor, delta_SP: torch.Tensor, kept_P: torch.Tensor, *, mask: str
) -> Merged:
    """SCE's second and third step on the kept positions.

    Coefficient of a model: its sum of squares over the kept positions, normalised over the models;
    uniform only when all are exactly zero (mergekit falls back to uniform for mean squares under
    1e-6, which ordinary fine-tuning has). Entries whose sign disagrees with the sum over the models
    are erased, and each position is divided by the coefficients that survive.
    """
    selected_SP = torch.where(kept_P, delta_SP, 0)
    # float64 sums: squares of 1e-5 over a million positions must not lose the small models.
    energy_S = selected_SP.square().sum(dim=1, dtype=torch.float64)
    total = energy_S.sum()
    uniform_S = torch.full_like(energy_S, 1 / len(delta_SP))
    coefficient_S = (energy_S / total if total > 0 else uniform_S).to(delta_SP.dtype)
    merged_SP = selected_SP if mask == "deltas" else delta_SP
    weight_SP = coefficient_S[:, None] * agrees_with_majority(merged_SP)
    divisor_P = weight_SP.sum(dim=0)
    merged_P = (weight_SP * merged_SP).sum(dim=0)
    merged_P = merged_P / torch.where(divisor_P > 0, divisor_P, 1)
    return Merged(
        base_P + merged_P,
        {"kept": int(kept_P.sum()), "coefficients": coefficient_S.tolist()},
    )
