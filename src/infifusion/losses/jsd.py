"""Generalised Jensen-Shannon divergence: between forward and reverse KL, and bounded."""

from __future__ import annotations

import math

import torch
from pydantic import Field

from infifusion.losses.sparse import SparseTarget, both_sides, divergence
from infifusion.strict import Strict


class Params(Strict):
    """Parameters of `jsd`."""

    beta: float = Field(default=0.5, gt=0, lt=1)
    """Weight of the target in the mixture; 0.5 is the symmetric divergence."""
    temperature: float = Field(default=1.0, gt=0)
    """As in `kl`."""
    tail: bool = True
    """As in `kl`."""


def jsd(logits_RV: torch.Tensor, target: SparseTarget, params: Params) -> torch.Tensor:
    """beta KL(P || M) + (1 - beta) KL(Q || M), M = beta P + (1 - beta) Q: [R], nats.

    Over the kept ids and, with `tail`, one tail bucket. At most ln 2 for beta = 0.5. GKD,
    arXiv 2306.13649 v3, equation 1.
    """
    log_p, log_q = both_sides(logits_RV, target, temperature=params.temperature, tail=params.tail)
    unused = ~torch.isfinite(log_p)
    log_q = log_q.masked_fill(unused, -torch.inf)
    safe_p, safe_q = log_p.masked_fill(unused, 0), log_q.masked_fill(unused, 0)
    log_m = torch.logaddexp(
        safe_p + math.log(params.beta), safe_q + math.log(1 - params.beta)
    ).masked_fill(unused, 0)
    forward, backward = divergence(log_p, log_m), divergence(log_q, log_m)
    return (params.beta * forward + (1 - params.beta) * backward) * params.temperature**2
