"""What a merge method gives back for one tensor."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Merged:
    """tensor_P: float32, the merged parameter. details: figures for the report, by name."""

    tensor_P: torch.Tensor
    details: dict[str, float | list[float]] = field(default_factory=dict)


def per_model(value: float | list[float], models: int, *, name: str) -> list[float]:
    """One value per model: a number stands for all of them. ValueError for another length."""
    values = [float(value)] * models if isinstance(value, int | float) else list(value)
    if len(values) != models:
        raise ValueError(
            f"'{name}' holds {len(values)} values, but {models} models are merged. Give one value, "
            "or one per model in their order."
        )
    return values


def column(values: list[float], like: torch.Tensor) -> torch.Tensor:
    """[S, 1] in the dtype and on the device of `like`."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
