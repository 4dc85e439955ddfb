"""Sign election: the step that TIES, DARE-TIES, SCE and RSAF share."""

from __future__ import annotations

import torch


def agrees_with_majority(delta_SP: torch.Tensor) -> torch.Tensor:
    """Whether each entry has the sign of its position's sum over the models: [S, P].

    A sum of exactly 0 elects plus; an entry of 0 never agrees. TIES-Merging, arXiv 2306.01708 v2,
    section 3.
    """
    elected_P = torch.where(delta_SP.sum(dim=0) >= 0, 1.0, -1.0)
    return delta_SP.sign() == elected_P
