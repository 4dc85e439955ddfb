"""SCE as FuseChat's own code has it: the selection decides the coefficients alone."""

from __future__ import annotations

from infifusion.merge.blocks.blocks import Blocks
from infifusion.merge.blocks.result import Merged
from infifusion.merge.methods.sce import Params, fuse_selected, select

__all__ = ["Params", "sce_fusechat"]


def sce_fusechat(blocks: Blocks, params: Params) -> Merged:
    """As `sce`, but every position is merged, also those that were not selected.

    FuseChat, arXiv 2408.07990 v1, section 3.3, and the authors' published code.
    """
    border = select(blocks, params.select_topk)
    return fuse_selected(blocks, border, mask_deltas=False, uniform_below=params.uniform_below)
