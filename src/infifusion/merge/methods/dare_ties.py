"""DARE with TIES' sign election."""

from __future__ import annotations

from infifusion.merge.blocks.blocks import Blocks
from infifusion.merge.blocks.result import Merged
from infifusion.merge.methods.dare_linear import Params, dare

__all__ = ["Params", "dare_ties"]


def dare_ties(blocks: Blocks, params: Params) -> Merged:
    """base + lambda * sum over agreeing s of w_s drop(delta_s). arXiv 2311.03099 v3, 2306.01708."""
    return dare(blocks, params, elect_sign=True)
