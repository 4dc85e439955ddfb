"""RAM, Reinforced Agent Merging: average what several models changed, keep what one changed.

Axes: S models, P positions of a block.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from infifusion.merge.blocks.adding import add_overlapping, count_overlaps
from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.result import Merged
from infifusion.merge.methods.method import Method
from infifusion.strict import Strict


class Params(Strict):
    """Parameters of `ram`."""

    epsilon: float = Field(default=1e-5, ge=0)
    """A delta counts as changed above this magnitude."""


class PlusParams(Params):
    """Parameters of `ramplus_tl`."""

    r: float = 0.1
    """Strength of the raise."""
    alpha: float = Field(default=0.2, ge=0)
    """Largest ratio that counts."""


def ram(blocks: Blocks, params: Params) -> Merged:
    """base + mean over the models with |delta_s| > epsilon of delta_s. arXiv 2601.13572."""
    return _by_overlap(blocks, params.epsilon, np.ones(len(blocks.models)))


def ramplus_tl(blocks: Blocks, params: PlusParams) -> Merged:
    """`ram` with lone entries times lambda_s = 1 + r min(alpha, shared_s / alone_s).

    shared_s and alone_s count the changed entries of model s that others changed too, or not.
    arXiv 2601.13572.
    """

    def add(block: Block, counts_2S: np.ndarray) -> None:
        count_overlaps(block.delta_SP, np.float32(params.epsilon), counts_2S)

    shared_S, alone_S = blocks.total(add, np.zeros((2, len(blocks.models))))
    ratio_S = shared_S / np.maximum(alone_S, params.epsilon or 1e-12)
    factor_S = 1 + params.r * np.clip(ratio_S, 0, params.alpha)
    return _by_overlap(blocks, params.epsilon, factor_S, lambdas=factor_S.tolist())


def _by_overlap(blocks: Blocks, epsilon: float, alone_S: np.ndarray, **details: list) -> Merged:
    """The mean of the changed deltas; one that stands alone is multiplied by alone_s."""
    factor_S = alone_S.astype(np.float32)

    def apply(block: Block) -> np.ndarray:
        out_P = block.empty()
        add_overlapping(block.base_P, block.delta_SP, np.float32(epsilon), factor_S, out_P)
        return out_P

    return Merged(blocks, apply, dict(details))


RAM = Method(
    ram,
    Params,
    line="RAM, Reinforced Agent Merging: average what several models changed, keep what one "
    "changed.",
    paper="arXiv 2601.13572",
)
RAMPLUS_TL = Method(
    ramplus_tl,
    PlusParams,
    line="RAM plus, tensor by tensor: what one model alone changed is raised by how much is "
    "shared.",
    paper="arXiv 2601.13572",
)
