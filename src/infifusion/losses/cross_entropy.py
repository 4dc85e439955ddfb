"""Cross-entropy on the gold token: plain supervised fine-tuning."""

from __future__ import annotations

import torch
from torch.nn import functional

from infifusion.losses.sparse import SparseTarget
from infifusion.strict import Strict


class Params(Strict):
    """`cross_entropy` has no parameters."""


def cross_entropy(logits_RV: torch.Tensor, target: SparseTarget, params: Params) -> torch.Tensor:
    """-log Q(gold) at every position: [R], nats."""
    return functional.cross_entropy(logits_RV, target.gold_R, reduction="none")
