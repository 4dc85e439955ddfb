"""DELLA with TIES' sign election."""

from __future__ import annotations

from infifusion.merge.blocks.blocks import Blocks
from infifusion.merge.blocks.result import Merged
from infifusion.merge.methods import della_linear


class Params(della_linear.Params):
    """Parameters of `della`."""

    normalize: bool = True
    """Divide by the sum of the weights that agree."""


def della(blocks: Blocks, params: Params) -> Merged:
    """base + lambda * mean over agreeing s of w_s magprune(delta_s). arXiv 2406.11617 v1."""
    return della_linear.della_merge(blocks, params, elect_sign=True)
