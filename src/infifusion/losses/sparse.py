"""The target of a loss: K kept probabilities per position and one bucket for everything else.

The divergences compare target and pivot over the same buckets, `both_sides`: the kept ids and the
tail, or (`tail: false`) the kept ids alone.

Axes: R positions, K kept entries, V vocabulary.
"""

from __future__ import annotations

import torch

from infifusion.types import SparseTarget

TAIL_FLOOR = 1e-6
"""Both tails are at least this: a stored top-K often rounds to exactly 1, and log 0 must not
appear."""


def log_probabilities(
    logits_RV: torch.Tensor, target: SparseTarget, *, temperature: float = 1.0
) -> torch.Tensor:
    """The pivot's log-probabilities over the whole vocabulary at a temperature: [R, V]."""
    if temperature != 1.0:
        return torch.log_softmax(logits_RV / temperature, dim=1)
    return logits_RV if target.normalised else torch.log_softmax(logits_RV, dim=1)


def both_sides(
    logits_RV: torch.Tensor, target: SparseTarget, *, temperature: float, tail: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of target and pivot over the same buckets, at a temperature.

    [R, K + 1] each, the last bucket the tail; without the tail [R, K] each, renormalised over the
    kept ids, so that what either side gives to other ids does not count. -inf in unused places.
    """
    if tail:
        log_q_RK = log_pivot(logits_RV, target, temperature=temperature)
        return soften(log_target(target), temperature), log_q_RK
    log_q_RK = pivot_of_kept(logits_RV, target, temperature=temperature)
    return soften(target_of_kept(target), temperature), log_q_RK


def log_target(target: SparseTarget) -> torch.Tensor:
    """Log-probabilities over K kept ids and the tail: [R, K + 1]; -inf in unused places.

    The kept probabilities and the floored tail are renormalised, so every row sums to 1. An id kept
    with probability 0 counts as unused.
    """
    prob_RK = torch.where(_kept(target), target.prob_RK, 0)
    tail_R = (1 - prob_RK.sum(dim=1)).clamp_min(TAIL_FLOOR)
    all_RK = torch.cat([prob_RK, tail_R[:, None]], dim=1)
    return (all_RK / all_RK.sum(dim=1, keepdim=True)).log()


def log_pivot(
    logits_RV: torch.Tensor, target: SparseTarget, *, temperature: float = 1.0
) -> torch.Tensor:
    """The pivot's log-probabilities over the same K ids and the tail: [R, K + 1].

    The tail is 1 - sum over kept ids of Q, in log space by log1mexp, floored and renormalised like
    the target's; -inf in unused places. With every id of the vocabulary kept the tail is the floor
    on both sides.
    """
    log_RV = log_probabilities(logits_RV, target, temperature=temperature)
    kept_RK = log_RV.gather(1, target.ids_RK.clamp_min(0)).masked_fill(~_kept(target), -torch.inf)
    # At -1e-7 the tail is 1e-7, below the floor; the clamp keeps log1mexp's gradient finite.
    log_mass_R = kept_RK.logsumexp(dim=1).clamp_max(-1e-7)
    floor = torch.log(torch.tensor(TAIL_FLOOR, device=logits_RV.device))
    log_tail_R = torch.maximum(log1mexp(log_mass_R), floor)
    all_RK = torch.cat([kept_RK, log_tail_R[:, None]], dim=1)
    return all_RK - all_RK.logsumexp(dim=1, keepdim=True)


def target_of_kept(target: SparseTarget) -> torch.Tensor:
    """Log-probabilities over the kept ids alone: [R, K]; -inf in unused places.

    An id kept with probability 0 counts as unused. A row that keeps nothing is -inf throughout.
    """
    prob_RK = torch.where(_kept(target), target.prob_RK, 0)
    total_R1 = prob_RK.sum(dim=1, keepdim=True)
    return (prob_RK / total_R1.clamp_min(torch.finfo(prob_RK.dtype).tiny)).log()


def pivot_of_kept(
    logits_RV: torch.Tensor, target: SparseTarget, *, temperature: float = 1.0
) -> torch.Tensor:
    """The pivot's log-softmax over the same ids alone: [R, K]; -inf in unused places.

    What it gives to other ids, and so the normaliser of its whole vocabulary, drops out.
    """
    kept_RK = _kept(target)
    logits_RK = logits_RV.gather(1, target.ids_RK.clamp_min(0)) / temperature
    log_RK = torch.log_softmax(logits_RK.masked_fill(~kept_RK, -torch.inf), dim=1)
    # Again: a row that keeps nothing is NaN so far; either mask stops its gradient.
    return log_RK.masked_fill(~kept_RK, -torch.inf)


def _kept(target: SparseTarget) -> torch.Tensor:
    return (target.ids_RK >= 0) & (target.prob_RK > 0)


def log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) for x < 0, exact at both ends.

    Maechler, "Accurately computing log(1 - exp(-|a|))", 2012: log(-expm1(x)) above -ln 2,
    log1p(-exp(x)) below.
    """
    near = x > -0.6931471805599453
    safe_near = torch.where(near, x, -1.0)
    safe_far = torch.where(near, -1.0, x)
    return torch.where(near, (-safe_near.expm1()).log(), (-safe_far.exp()).log1p())


def soften(log_RK: torch.Tensor, temperature: float) -> torch.Tensor:
    """A distribution over the buckets at a temperature: renormalised log_RK / temperature."""
    return log_RK if temperature == 1.0 else torch.log_softmax(log_RK / temperature, dim=1)


def divergence(log_a_RK: torch.Tensor, log_b_RK: torch.Tensor) -> torch.Tensor:
    """sum over buckets of a (log a - log b): [R], nats; buckets with a = 0 add nothing."""
    used_RK = torch.isfinite(log_a_RK)
    a_RK = torch.where(used_RK, log_a_RK, 0)
    b_RK = torch.where(used_RK, log_b_RK, 0)
    return torch.where(used_RK, a_RK.exp() * (a_RK - b_RK), 0).sum(dim=1)
