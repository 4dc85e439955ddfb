"""Universal logit distillation: sorted, standardised logits, no vocabulary map needed."""

from __future__ import annotations

import torch

from infifusion.losses.sparse import SparseTarget
from infifusion.strict import Strict


class Params(Strict):
    """`uld` has no parameters."""


def uld(logits_RV: torch.Tensor, target: SparseTarget, params: Params) -> torch.Tensor:
    """Mean over K of |z_pivot - z_source|, both sorted: [R], standard deviations.

    z = (logit - mean) / std over the full vocabulary; the K largest of the pivot against the K
    largest of the source, rank by rank. Our reading of InfiFusion v3 (arXiv 2501.02795 v3: top-K =
    10, standardised logits) over ULD (arXiv 2402.12030). Where the pivot has fewer than K
    entries, its number is used. Raises ValueError for a target without standardised logits.
    """
    if target.zscore_RK is None:
        raise ValueError("uld: the target holds no standardised logits (zscore_RK).")
    keep = min(target.zscore_RK.shape[1], logits_RV.shape[1])
    std_R1, mean_R1 = torch.std_mean(logits_RV, dim=1, correction=0, keepdim=True)
    tiny = torch.finfo(logits_RV.dtype).tiny
    pivot_RK = (logits_RV.topk(keep, dim=1).values - mean_R1) / std_R1.clamp_min(tiny)
    source_RK = target.zscore_RK.sort(dim=1, descending=True).values[:, :keep]
    return (pivot_RK - source_RK).abs().mean(dim=1)
