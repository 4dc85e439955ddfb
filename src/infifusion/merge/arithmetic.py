"""Weighted sums of deltas, with or without sign election: what the task-vector methods share."""

from __future__ import annotations

import torch

from infifusion.merge.result import column
from infifusion.merge.sign import agrees_with_majority

# Below this a sum of weights counts as zero and the position is not divided by it.
SMALLEST_DIVISOR = 1e-8


def combine_deltas(
    base_P: torch.Tensor,
    delta_SP: torch.Tensor,
    weight: list[float],
    *,
    elect_sign: bool,
    normalize: bool,
    scale: float,
) -> torch.Tensor:
    """base + scale * sum_s w_s delta_s, over the entries that agree in sign if `elect_sign`: [P].

    The majority sign is that of the weighted sum. normalize divides every position by the sum of
    the weights that took part in it.
    """
    weight_S1 = column(weight, delta_SP)
    weighted_SP = weight_S1 * delta_SP
    if elect_sign:
        agrees_SP = agrees_with_majority(weighted_SP)
        total_P = (weighted_SP * agrees_SP).sum(dim=0)
        divisor_P = (weight_S1 * agrees_SP).sum(dim=0)
    else:
        total_P = weighted_SP.sum(dim=0)
        divisor_P = weight_S1.sum(dim=0)
    if normalize:
        total_P = total_P / torch.where(divisor_P.abs() < SMALLEST_DIVISOR, 1.0, divisor_P)
    return base_P + scale * total_P
