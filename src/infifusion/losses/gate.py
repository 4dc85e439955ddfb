"""A gate that follows the pivot: how far its sources still teach where it has caught up.

Axes: C positions, V vocabulary, K kept entries, D domains.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from infifusion.types import SparseTarget

RATE = 0.1
"""How much of the mean lead one step replaces: it remembers about ten steps."""
WORTH = 10.0
"""How many positions of the mean lead decide the part of the sources: the part is one half where
they are level, 0.73 at a lead of a tenth of a nat, 0.01 half a nat behind."""


class FollowingGate:
    """The chance that the token that is there came from the sources and not from the pivot.

        share = pi (P(y) + d) / (pi (P(y) + d) + (1 - pi) (Q(y) + d))
        pi    = 1 / (1 + exp(-10 lead)),  lead = mean of log (P(y) + d) / (Q(y) + d)

    P(y) is what the target's row gives to the token that is there, Q(y) what the pivot gives to it
    now, d `doubt`: so likely any token is by mistake. The lead is the mean over the domain, of
    about the last ten steps. So sources whose domain the pivot has learnt fade there, and come back
    if it forgets; a token that only the pivot expected, as where the sources have habits of their
    own, is learnt as it is; and where neither expected it, as with wrong labels, what the domain
    says decides.

    If tokens came from the mixture pi P + (1 - pi) Q, the target (1 - share) label + share P would
    be that mixture on average: as true as labels alone, and less noisy. Ours; the posterior of
    experts is that of Jacobs et al., Neural Computation 3, 1991.

    A token that the row does not keep gets its smallest kept probability or the tail, whichever is
    less: more than it has.
    """

    def __init__(self, *, domains: int, doubt: float) -> None:
        self._doubt = doubt
        self._lead_D = torch.zeros(domains)

    def __call__(self, log_CV: torch.Tensor, target: SparseTarget) -> torch.Tensor:
        """[2, C]: the share of the sources, 0 to 1, and their lead in nats. To be called without
        gradients; log_CV: the pivot's log-probabilities."""
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
        lead_C = ((source_C + self._doubt) / (pivot_C + self._doubt)).log()
        domain_C = torch.zeros_like(target.gold_R) if target.domain_R is None else target.domain_R
        prior_C = WORTH * self._lead_D.to(log_CV.device)[domain_C]
        return torch.stack([torch.sigmoid(prior_C + lead_C), lead_C])

    def learn(self, lead_D: Sequence[float], taught_D: Sequence[float]) -> None:
        """After an optimizer step: the sums of the leads in it, and of how many positions."""
        for domain, (lead, taught) in enumerate(zip(lead_D, taught_D, strict=True)):
            if taught > 0:
                self._lead_D[domain].lerp_(torch.tensor(lead / taught), RATE)

    @property
    def kept(self) -> list[float]:
        """The sources' lead in each domain: what a checkpoint keeps."""
        return self._lead_D.tolist()

    @kept.setter
    def kept(self, values: Sequence[float]) -> None:
        self._lead_D = torch.tensor(values)
