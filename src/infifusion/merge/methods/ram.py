"""RAM, Reinforced Agent Merging: average what several models changed, keep what one changed."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from infifusion.merge.blocks.arrays import Array
from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.result import Merged
from infifusion.strict import Strict


class Params(Strict):
    """Parameters of `ram`."""

    epsilon: float = Field(default=1e-5, ge=0)
    """A delta counts as changed above this magnitude."""


def ram(blocks: Blocks, params: Params) -> Merged:
    """base + mean over the models with |delta_s| > epsilon of delta_s. arXiv 2601.13572."""
    return by_overlap(blocks, params.epsilon, np.ones(len(blocks.models)))


def by_overlap(blocks: Blocks, epsilon: float, alone_S: np.ndarray, **details: list) -> Merged:
    """The mean of the changed deltas; one that stands alone is multiplied by alone_s."""
    factor_S = alone_S.astype(np.float32)

    def apply(block: Block) -> Array:
        base_P, delta_SP, out_P = block.base_P, block.delta_SP, block.empty()
        blocks.kernels.add_overlapping(base_P, delta_SP, np.float32(epsilon), factor_S, out_P)
        return out_P

    return Merged(blocks, apply, dict(details))
