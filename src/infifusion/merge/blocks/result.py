"""What a merge method gives back for one tensor. Axes: S models, P positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from infifusion.merge.blocks.blocks import Block, Blocks


@dataclass(frozen=True)
class Merged:
    """blocks: the tensor, in the blocks that `apply` works on. apply: the merged positions of one,
    float32 [P]. details: figures for the report."""

    blocks: Blocks
    apply: Callable[[Block], np.ndarray]
    details: dict[str, float | list[float]] = field(default_factory=dict)


def in_memory(merged: Merged) -> np.ndarray:
    """The whole merged tensor, float32, flat: [P]."""
    parts = merged.blocks.collect(merged.apply)
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def per_model(value: float | list[float], models: int, *, name: str) -> np.ndarray:
    """One float64 per model: a number stands for all of them. ValueError for another length."""
    values = [value] * models if isinstance(value, int | float) else list(value)
    if len(values) != models:
        raise ValueError(
            f"'{name}' holds {len(values)} values, but {models} models are merged. Give one value, "
            "or one per model in their order."
        )
    return np.array(values, np.float64)


def share_per_model(value: float | list[float], models: int, *, name: str) -> np.ndarray:
    """`per_model` of a share; ValueError also for one outside [0, 1]."""
    share_S = per_model(value, models, name=name)
    if not ((share_S >= 0) & (share_S <= 1)).all():
        raise ValueError(f"'{name}' is {share_S.tolist()}; a share lies between 0 and 1.")
    return share_S
