"""DARE with TIES' sign election."""

from __future__ import annotations

import torch

from infifusion.merge.arithmetic import combine_deltas
from infifusion.merge.dare_linear import Params, drop
from infifusion.merge.result import Merged, per_model

__all__ = ["Params", "dare_ties"]


def dare_ties(
    base_P: torch.Tensor,
    model_SP: torch.Tensor,
    params: Params,
    *,
    generator: torch.Generator | None = None,
) -> Merged:
    """base + lambda * sum over agreeing s of w_s drop(delta_s). arXiv 2311.03099 v3, 2306.01708."""
    return Merged(
        combine_deltas(
            base_P,
            drop(model_SP - base_P, params, generator),
            per_model(params.weight, len(model_SP), name="weight"),
            elect_sign=True,
            normalize=params.normalize,
            scale=params.lambda_,
        )
    )
