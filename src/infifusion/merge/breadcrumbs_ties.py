"""Model Breadcrumbs with TIES' sign election."""

from __future__ import annotations

from infifusion.merge.blocks import Blocks
from infifusion.merge.breadcrumbs import Params, scatter
from infifusion.merge.result import Merged

__all__ = ["Params", "breadcrumbs_ties"]


def breadcrumbs_ties(blocks: Blocks, params: Params) -> Merged:
    """base + lambda * sum over agreeing s of w_s mask_s delta_s. arXiv 2312.06795, 2306.01708."""
    return scatter(blocks, params, elect_sign=True)
