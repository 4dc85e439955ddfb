"""One model's tensor as it is, or scaled: for stacking layers of several models."""

from __future__ import annotations

import numpy as np

from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.result import Merged
from infifusion.merge.methods.method import Method
from infifusion.strict import Strict


class Params(Strict):
    """Parameters of `passthrough`."""

    scale: float | list[float] | None = None
    """Factor on the tensor."""


def passthrough(blocks: Blocks, params: Params) -> Merged:
    """scale * theta. Raises ValueError for more than one model."""
    if len(blocks.models) != 1:
        raise ValueError(
            f"passthrough takes one model per slice; found {len(blocks.models)}. Give each slice "
            "one source."
        )
    scale = scale_of(params)

    def apply(block: Block) -> np.ndarray:
        (row_P,) = block.model_SP
        return row_P if scale is None else row_P * float(scale)

    return Merged(blocks, apply)


def scale_of(params: Params) -> float | None:
    """The only model's factor; None: the tensor as it is."""
    return params.scale[0] if isinstance(params.scale, list) else params.scale


PASSTHROUGH = Method(
    passthrough,
    Params,
    line="One model's tensor as it is, or scaled: for stacking layers of several models.",
    base="unused",
    unlisted_base="left_out",
    nanoseconds=1.0,
    copies=lambda params: scale_of(params) is None,
)
