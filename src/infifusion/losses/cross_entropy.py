"""Cross-entropy on the gold token: plain supervised fine-tuning."""

from __future__ import annotations

import torch

from infifusion.losses.sparse import SparseTarget, log_probabilities
from infifusion.strict import Strict


class Params(Strict):
    """`cross_entropy` has no parameters."""


def cross_entropy(logits_RV: torch.Tensor, target: SparseTarget, params: Params) -> torch.Tensor:
    """-log Q(gold) at every position: [R], nats."""
    log_RV = log_probabilities(logits_RV, target)
    return -log_RV.gather(1, target.gold_R[:, None])[:, 0]
