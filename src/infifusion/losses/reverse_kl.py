"""Reverse KL from the pivot to the target: seeks one mode of the target."""

from __future__ import annotations

import torch

from infifusion.losses.kl import Params
from infifusion.losses.sparse import SparseTarget, both_sides, divergence

__all__ = ["Params", "reverse_kl"]


def reverse_kl(logits_RV: torch.Tensor, target: SparseTarget, params: Params) -> torch.Tensor:
    """KL(Q || P) over the kept ids and, with `tail`, one tail bucket at every position: [R], nats.

    Q's tail against P's floored tail costs about log(1 / 1e-6) nats per unit of mass, so the
    pivot is pushed hard onto the target's ids. MiniLLM, arXiv 2306.08543. An id that the target
    keeps with probability 0 counts as unused.
    """
    log_p, log_q = both_sides(logits_RV, target, temperature=params.temperature, tail=params.tail)
    return divergence(log_q, log_p) * params.temperature**2
