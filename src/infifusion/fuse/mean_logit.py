"""Logit-level average of the aligned sources."""

from __future__ import annotations

from infifusion.fuse.mixture import equal_weights, mix_logits
from infifusion.strict import Strict
from infifusion.types import Aligned, Target


class Params(Strict):
    """`mean_logit` has no parameters."""


def mean_logit(aligned: Aligned, params: Params, *, keep: int) -> Target:
    """P proportional to the geometric mean of P_s: the softmax of averaged logits."""
    return mix_logits(aligned, equal_weights(aligned.aligned_ST), keep=keep)
