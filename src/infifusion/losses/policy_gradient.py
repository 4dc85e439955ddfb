"""The policy gradient on text that the pivot wrote: only the tokens that were drawn count."""

from __future__ import annotations

import torch

from infifusion.losses.sparse import SparseTarget, log_probabilities
from infifusion.strict import Strict


class Params(Strict):
    """Parameters of `policy_gradient`."""

    clip: float = 0.2
    """How far the probability of a token may move from what it was when the token was drawn, as a
    share, before it is learnt no more (PPO, arXiv 1707.06347 v2, equation 7)."""


def policy_gradient(logits_RV: torch.Tensor, target: SparseTarget, params: Params) -> torch.Tensor:
    """-min(r A, clip(r, 1 - c, 1 + c) A) at every position: [R], nats.

    A is target.advantage_R, how much likelier the sources find the token than the pivot did when it
    drew it (align/spans.py); r = Q(y) / Q_drawn(y), where target.before_R holds log Q_drawn. For
    fresh text r is 1, and where a span is one token the gradient -A grad log Q(y) is in the mean
    that of KL(Q || P) at this position, behind the text as it was drawn: what a token does to later
    ones does not count (multi-teacher on-policy distillation as in MiMo-V2-Flash and
    tinker-cookbook, which need one vocabulary). A span of n tokens gives an n-th of the gradient of
    its KL. 0 where A is 0. Raises ValueError for a target without advantages.
    """
    if target.advantage_R is None or target.before_R is None:
        raise ValueError("policy_gradient: the target holds no advantages (advantage_R).")
    log_RV = log_probabilities(logits_RV, target)
    log_R = log_RV.gather(1, target.gold_R[:, None])[:, 0]
    ratio_R = (log_R - target.before_R).exp()
    kept_R = ratio_R.clamp(1 - params.clip, 1 + params.clip)
    return -torch.minimum(ratio_R * target.advantage_R, kept_R * target.advantage_R)
