"""Uncertainty weights applied to logits in place of distributions."""

from __future__ import annotations

from infifusion.fuse.mixture import mix_logits
from infifusion.fuse.uncertainty import Params, weights
from infifusion.types import Aligned, Target

__all__ = ["Params", "uncertainty_logit"]


def uncertainty_logit(aligned: Aligned, params: Params, *, keep: int) -> Target:
    """P proportional to prod_s P_s^w_s with the weights of `uncertainty`. Our reconstruction."""
    return mix_logits(aligned, weights(aligned, params), keep=keep)
