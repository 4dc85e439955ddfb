"""A gate that follows the pivot: how far a source still teaches where the pivot has caught up.

Axes: C positions, V vocabulary, K kept entries.
"""

from __future__ import annotations

import torch

from infifusion.types import SparseTarget


def share_of_sources(log_CV: torch.Tensor, target: SparseTarget, *, doubt: float) -> torch.Tensor:
    """How far the target's row counts at each position beside the label: [C], 0 to 1.

        min(1, 2 (P(y) + d) / (P(y) + d + Q(y) + d))

    P(y) is what the sources gave to the label that is there, Q(y) what the pivot gives to it now
    (log_CV: its log-probabilities), d `doubt`. Up to a factor of 2 it is the posterior that the
    label came from the sources and not from the pivot, where each label is wrong with a chance
    that makes any token as likely as d more would. So it is 1 wherever the sources were no worse
    than the pivot is now; it goes down to 2 d / (1 + 2 d) where the pivot is sure of a label that
    the sources never expected (their own style, a wrong belief); and where neither expected the
    label, as with wrong ones, the sources go on teaching. It comes back when the pivot forgets.

    A label that the row does not keep gets its smallest kept probability or the tail, whichever is
    less: more than it has. Ours; the mixture of experts (Jacobs et al., Neural Computation 3, 1991,
    equation 1.3) weighs gradients in the same way.
    """
    hit_CK = target.ids_RK == target.gold_R[:, None]
    unused_CK = target.ids_RK < 0
    tail_C = (1 - target.prob_RK.masked_fill(unused_CK, 0).sum(dim=1)).clamp_min(0)
    least_C = target.prob_RK.masked_fill(unused_CK, 1).amin(dim=1)
    source_C = torch.where(
        hit_CK.any(dim=1),
        target.prob_RK.masked_fill(~hit_CK, 0).sum(dim=1),
        torch.minimum(tail_C, least_C),
    )
    pivot_C = log_CV.gather(1, target.gold_R[:, None])[:, 0].exp()
    ahead_C = (source_C + doubt) / (source_C + pivot_C + 2 * doubt)
    return (2 * ahead_C).clamp_max(1)
