"""Model Breadcrumbs with TIES' sign election."""

from __future__ import annotations

from infifusion.merge.blocks.blocks import Blocks
from infifusion.merge.blocks.result import Merged
from infifusion.merge.methods.breadcrumbs import Params, scatter

__all__ = ["Params", "breadcrumbs_ties"]


def breadcrumbs_ties(blocks: Blocks, params: Params) -> Merged:
    """base + lambda * sum over agreeing s of w_s mask_s delta_s. arXiv 2312.06795, 2306.01708."""
    return scatter(blocks, params, elect_sign=True)
