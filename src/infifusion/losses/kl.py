"""Forward KL from the target to the pivot, over the kept ids and (or not) one tail bucket."""

from __future__ import annotations

import torch
from pydantic import Field

from infifusion.losses.sparse import SparseTarget, both_sides, divergence
from infifusion.strict import Strict


class Params(Strict):
    """Parameters of `kl` and `reverse_kl`."""

    temperature: float = Field(default=1.0, gt=0)
    """Both sides are softened by it; the loss is multiplied by its square (Hinton et al.,
    arXiv 1503.02531) so that gradients keep their size."""
    tail: bool = True
    """One more bucket for everything that the target does not keep. false: both sides renormalised
    over the kept ids, as where top-K distillation has no tail; the pivot then learns nothing of
    how much it may give to other ids."""


def kl(logits_RV: torch.Tensor, target: SparseTarget, params: Params) -> torch.Tensor:
    """KL(P || Q) = sum_A P log(P / Q) + P_tail log(P_tail / Q_tail) at every position: [R], nats.

    A is the kept ids of the target; both tails are floored at 1e-6 and both sides renormalised, so
    the loss is 0 when Q equals P on A and never negative. At a temperature T other than 1 the
    buckets of the target are softened as P^(1/T), the pivot over its full vocabulary.

    tail: false gives sum_A P_A log(P_A / Q_A), P_A = P / sum_A P and Q_A the pivot's softmax over
    A alone: also 0 at equality and never negative; always 0 where A has one id.
    """
    log_p, log_q = both_sides(logits_RV, target, temperature=params.temperature, tail=params.tail)
    return divergence(log_p, log_q) * params.temperature**2
