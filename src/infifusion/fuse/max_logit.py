"""Logit-level maximum over the aligned sources."""

from __future__ import annotations

from infifusion.fuse.mixture import equal_weights, mix_logits
from infifusion.strict import Strict
from infifusion.types import Aligned, Target


class Params(Strict):
    """`max_logit` has no parameters."""


def max_logit(aligned: Aligned, params: Params, *, keep: int) -> Target:
    """P proportional to max over s of P_s: the softmax of the largest logit of each id."""
    return mix_logits(aligned, equal_weights(aligned.aligned_ST), keep=keep, largest=True)
