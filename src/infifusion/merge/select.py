"""Which positions of a tensor are kept: the largest, or a random share."""

from __future__ import annotations

import torch


def largest(score_P: torch.Tensor, count: int) -> torch.Tensor:
    """Boolean mask of the `count` largest scores: [P]. Equal scores at the border: as topk takes.

    count 0 keeps nothing, count >= P everything.
    """
    mask_P = torch.zeros(score_P.shape, dtype=torch.bool, device=score_P.device)
    if count >= score_P.numel():
        return ~mask_P
    if count > 0:
        mask_P[score_P.topk(count, sorted=False).indices] = True
    return mask_P


def random_share(
    size: int, density: float, generator: torch.Generator, device: torch.device
) -> torch.Tensor:
    """Boolean mask in which every position is kept with probability `density`: [size]."""
    # Drawn on the CPU, so that every device merges alike.
    return (torch.rand(size, generator=generator) < density).to(device)
