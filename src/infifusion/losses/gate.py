"""A gate that follows the pivot: how far its sources still teach where it has caught up.

Axes: C positions, V vocabulary, K kept entries, D domains.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from infifusion.types import SparseTarget

RATE = 0.1
"""How much of the prior one step replaces: it remembers about ten steps."""


class FollowingGate:
    """The chance that the token that is there came from the sources and not from the pivot.

        share = pi (P(y) + d) / (pi (P(y) + d) + (1 - pi) (Q(y) + d))

    P(y) is what the target's row gives to the token that is there, Q(y) what the pivot gives to it
    now, d `doubt`: so likely any token is by mistake. pi is the sources' part of the domain: it
    starts at one half and goes, step by step, to the mean share of the latest steps, which is EM
    for the mixture pi P + (1 - pi) Q that predicts the given tokens best. So a source whose domain
    the pivot has learnt fades there and comes back if the pivot forgets; one that knows other
    things than the pivot keeps its part even if it is worse by itself; and a token that only the
    pivot expected, as where the sources have habits of their own, is learnt as it is.

    A target (1 - share) label + share P is on average, over tokens that come from that mixture, the
    mixture itself: as true as the labels alone, and less noisy. Ours; the posterior of experts is
    that of Jacobs et al., Neural Computation 3, 1991.

    A token that the row does not keep gets its smallest kept probability or the tail, whichever is
    less: more than it has.
    """

    def __init__(self, *, domains: int, doubt: float) -> None:
        self._doubt = doubt
        self._prior_D = torch.full((domains,), 0.5)

    def __call__(self, log_CV: torch.Tensor, target: SparseTarget) -> torch.Tensor:
        """[C], 0 to 1. To be called without gradients; log_CV: the pivot's log-probabilities."""
        unused_CK = target.ids_RK < 0
        hit_CK = target.ids_RK == target.gold_R[:, None]
        tail_C = (1 - target.prob_RK.masked_fill(unused_CK, 0).sum(dim=1)).clamp_min(0)
        least_C = target.prob_RK.masked_fill(unused_CK, 1).amin(dim=1)
        source_C = torch.where(
            hit_CK.any(dim=1),
            target.prob_RK.masked_fill(~hit_CK, 0).sum(dim=1),
            torch.minimum(tail_C, least_C),
        )
        pivot_C = log_CV.gather(1, target.gold_R[:, None])[:, 0].exp()
        self._prior_D = self._prior_D.to(log_CV.device)
        domain_C = torch.zeros_like(target.gold_R) if target.domain_R is None else target.domain_R
        prior_C = self._prior_D[domain_C]
        by_sources_C = prior_C * (source_C + self._doubt)
        return by_sources_C / (by_sources_C + (1 - prior_C) * (pivot_C + self._doubt))

    def learn(self, share_D: Sequence[float], taught_D: Sequence[float]) -> None:
        """After an optimizer step: the sums of the shares in it, and of how many positions."""
        for domain, (share, taught) in enumerate(zip(share_D, taught_D, strict=True)):
            if taught > 0:
                self._prior_D[domain].lerp_(torch.tensor(share / taught), RATE)

    @property
    def prior(self) -> list[float]:
        """The sources' part of each domain: what a checkpoint keeps."""
        return self._prior_D.tolist()

    @prior.setter
    def prior(self, values: Sequence[float]) -> None:
        self._prior_D = torch.tensor(values)
