"""Spherical interpolation between two models."""

from __future__ import annotations

import torch
from pydantic import Field

from infifusion.merge.result import Merged
from infifusion.strict import Strict

# Beyond this cosine the two directions are taken as one line and interpolated linearly.
NEARLY_PARALLEL = 0.9995


class Params(Strict):
    """Parameters of `slerp`."""

    t: float = Field(ge=0, le=1)
    """0 gives the base (or the first model), 1 the other one."""


def slerp(
    base_P: torch.Tensor | None,
    model_SP: torch.Tensor,
    params: Params,
    *,
    generator: torch.Generator | None = None,
) -> Merged:
    """sin((1-t) a)/sin(a) v0 + sin(t a)/sin(a) v1, a the angle between v0 and v1: [P].

    v0 is the base and v1 the one model, or v0, v1 are the two models where there is no base.
    Linear interpolation where they are nearly parallel. Shoemake 1985. Raises ValueError for
    another number of models.
    """
    ends = [*([] if base_P is None else [base_P]), *model_SP]
    if len(ends) != 2:
        raise ValueError(
            f"slerp goes between two models; found {len(ends)}. Give a base and one model, or two "
            "models and no base."
        )
    first_P, second_P = ends
    norms = first_P.norm(), second_P.norm()
    cosine = (first_P @ second_P) / (norms[0] * norms[1]).clamp_min(1e-16)
    if cosine.abs() > NEARLY_PARALLEL or min(norms) == 0:
        return Merged(torch.lerp(first_P, second_P, params.t), {"cosine": float(cosine)})
    angle = torch.arccos(cosine)
    merged_P = (
        torch.sin((1 - params.t) * angle) * first_P + torch.sin(params.t * angle) * second_P
    ) / torch.sin(angle)
    return Merged(merged_P, {"cosine": float(cosine)})
