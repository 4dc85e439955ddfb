"""RAM plus, tensor by tensor: what one model alone changed is raised by how much is shared."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.result import Merged
from infifusion.merge.methods.ram import by_overlap
from infifusion.strict import Strict


class Params(Strict):
    """Parameters of `ramplus_tl`."""

    epsilon: float = Field(default=1e-5, ge=0)
    """A delta counts as changed above this magnitude."""
    r: float = 0.1
    """Strength of the raise."""
    alpha: float = Field(default=0.2, ge=0)
    """Largest ratio that counts."""


def ramplus_tl(blocks: Blocks, params: Params) -> Merged:
    """`ram` with lone entries times lambda_s = 1 + r min(alpha, shared_s / alone_s).

    shared_s and alone_s count the changed entries of model s that others changed too, or not.
    arXiv 2601.13572.
    """

    def add(block: Block, found_2S: np.ndarray) -> None:
        blocks.kernels.count_overlaps(block.delta_SP, np.float32(params.epsilon), found_2S)

    shared_S, alone_S = blocks.total(add, np.zeros((2, len(blocks.models))))
    ratio_S = shared_S / np.maximum(alone_S, params.epsilon or 1e-12)
    factor_S = 1 + params.r * np.clip(ratio_S, 0, params.alpha)
    return by_overlap(blocks, params.epsilon, factor_S, lambdas=factor_S.tolist())
