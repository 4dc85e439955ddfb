"""Plain average of the aligned sources."""

from __future__ import annotations

from infifusion.fuse.mixture import equal_weights, mix
from infifusion.strict import Strict
from infifusion.types import Aligned, Target


class Params(Strict):
    """`mean` has no parameters."""


def mean(aligned: Aligned, params: Params, *, keep: int) -> Target:
    """P = the mean of P_s over the aligned sources. The control for every weighting."""
    return mix(aligned, equal_weights(aligned.aligned_ST), keep=keep)
