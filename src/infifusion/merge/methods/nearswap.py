"""NearSwap: take the other model's value where it is near the base's."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.result import Merged
from infifusion.merge.methods.method import Method
from infifusion.strict import Strict

SMALLEST_DISTANCE = 1e-6


class Params(Strict):
    """Parameters of `nearswap`."""

    t: float = Field(ge=0)
    """Distance up to which the other model's value is taken whole."""


def nearswap(blocks: Blocks, params: Params) -> Merged:
    """base + min(1, t / |delta|) delta: a step of at most t. alchemonaut, QuartetAnemoi-70B, 2024.

    Raises ValueError for another number of models than one and the base.
    """
    if len(blocks.models) != 1:
        raise ValueError(
            f"nearswap takes a base and one model; found {len(blocks.models)} models. Leave the "
            "others out, or take ties or sce."
        )

    step = np.float32(params.t)

    def apply(block: Block) -> np.ndarray:
        (delta_P,) = block.delta_SP
        share_P = (step / abs(delta_P).clip(min=SMALLEST_DISTANCE)).clip(max=1)
        return block.base_P + share_P * delta_P

    return Merged(blocks, apply)


NEARSWAP = Method(
    nearswap,
    Params,
    line="NearSwap: take the other model's value where it is near the base's.",
    paper="alchemonaut, QuartetAnemoi-70B, 2024",
)
