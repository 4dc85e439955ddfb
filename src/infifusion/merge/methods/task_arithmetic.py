"""Task arithmetic: add up weighted deltas."""

from __future__ import annotations

from pydantic import Field

from infifusion.merge.blocks.blocks import Blocks
from infifusion.merge.blocks.deltas import sum_deltas
from infifusion.merge.blocks.result import Merged
from infifusion.merge.methods.method import Method
from infifusion.strict import Strict


class Params(Strict):
    """Parameters of `task_arithmetic`."""

    weight: float | list[float] = 1.0
    """Weight of each model's delta."""
    lambda_: float = Field(default=1.0, alias="lambda")
    """Factor on the merged delta."""
    normalize: bool = False
    """Divide by the sum of the weights."""


def task_arithmetic(blocks: Blocks, params: Params) -> Merged:
    """base + lambda * sum_s w_s (theta_s - base). arXiv 2212.04089 v3."""
    return sum_deltas(blocks, params)


TASK_ARITHMETIC = Method(
    task_arithmetic,
    Params,
    line="Task arithmetic: add up weighted deltas.",
    paper="arXiv 2212.04089 v3",
    nanoseconds=2.0,
    ignored={"density": "every entry is kept", "rescale": "every entry is kept"},
)
