"""The source with the highest top probability takes the position."""

from __future__ import annotations

from infifusion.fuse.mixture import choose, mix
from infifusion.strict import Strict
from infifusion.types import Aligned, Target


class Params(Strict):
    """`max_confidence` has no parameters."""


def max_confidence(aligned: Aligned, params: Params, *, keep: int) -> Target:
    """P = P_s of the aligned source whose own largest probability is highest.

    A hard, token-level rule: a confidently wrong source wins.
    """
    return mix(aligned, choose(aligned.top_ST, aligned.aligned_ST), keep=keep)
