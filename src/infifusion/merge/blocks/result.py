"""What a merge method gives back for one tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from infifusion.merge.blocks.arrays import Array
from infifusion.merge.blocks.blocks import Block, Blocks


@dataclass(frozen=True)
class Merged:
    """blocks: the tensor, in the blocks that `apply` works on. apply: the merged positions of one,
    float32 [P]. details: figures for the report."""

    blocks: Blocks
    apply: Callable[[Block], Array]
    details: dict[str, float | list[float]] = field(default_factory=dict)


def in_memory(merged: Merged) -> np.ndarray:
    """The whole merged tensor, float32, flat, on the host: [P]."""
    parts = merged.blocks.collect(lambda block: merged.blocks.arrays.get(merged.apply(block)))
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def per_model(
    value: float | list[float], models: int, *, name: str, share: bool = False
) -> np.ndarray:
    """One float64 per model: a number stands for all of them. ValueError for another length, and
    for a `share` outside [0, 1]."""
    values = [value] * models if isinstance(value, int | float) else list(value)
    if len(values) != models:
        raise ValueError(
            f"'{name}' holds {len(values)} values, but {models} models are merged. Give one value, "
            "or one per model in their order."
        )
    if share and not all(0 <= number <= 1 for number in values):
        raise ValueError(f"'{name}' is {values}; a share lies between 0 and 1.")
    return np.array(values, np.float64)
