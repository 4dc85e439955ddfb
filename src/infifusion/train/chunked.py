"""A model whose forward returns our loss, with logits of a few positions at a time.

Only response positions go through the head (train/head_loss.py). The loss is computed inside the
model's own forward so that DDP, FSDP and peft see every use of a parameter.

Axes: B batch, L tokens, R response positions, K kept entries, D hidden size or domains.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from transformers import PreTrainedModel

from infifusion.teacher.lm_head import split_head
from infifusion.train.gate import Gate
from infifusion.train.head_loss import HeadLoss, PositionLoss
from infifusion.types import SparseTarget

__all__ = ["PositionLoss", "with_position_loss"]


def with_position_loss(
    model: PreTrainedModel,
    loss: PositionLoss | None,
    *,
    gold_weight: float,
    loss_rows: int,
    gate: Gate | None = None,
    domains: int = 1,
) -> PreTrainedModel:
    """The same model with `forward` replaced: batches of train.batches in, sums out.

    It returns a dict of sums over the batch's positions: loss (the objective, with gradient),
    cross_entropy and divergence (its parts, detached; the latter over taught positions), and by
    domain [D] taught_D, the number of those, share_D, how far the sources counted there, and
    lead_D, how far they were ahead of the pivot.

    At a taught position the objective is (1 - w) * CE(gold) + w * loss, w = (1 - gold_weight) *
    share (what `gate` says, or 1), at any other CE(gold) alone. `loss` None trains on the gold
    tokens everywhere. Both are given log-probabilities, which are logits too.
    """
    split_head(model)  # refuses a model without a body and a head before anything else is done
    head_loss = HeadLoss(loss, gold_weight, loss_rows, gate, domains)
    gold_loss = HeadLoss(None, 1.0, loss_rows, domains=domains)  # for scores, with gold_only

    def forward(
        input_ids: torch.Tensor,
        predicts_BL: torch.Tensor,
        gold_R: torch.Tensor,
        taught_R: torch.Tensor,
        ids_RK: torch.Tensor,
        prob_RK: torch.Tensor,
        domain_R: torch.Tensor | None = None,
        zscore_RK: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        gold_only: bool = False,
        own_R: torch.Tensor | None = None,
        scale_R: torch.Tensor | None = None,
        advantage_R: torch.Tensor | None = None,
        before_R: torch.Tensor | None = None,
        **_: object,
    ) -> dict[str, torch.Tensor]:
        head = split_head(model)  # now: peft may have put an adapter around it since
        packed = {} if position_ids is None else {"position_ids": position_ids}
        hidden_RD = head.hidden(input_ids, attention_mask, **packed)[predicts_BL]
        target = SparseTarget(
            ids_RK, prob_RK, zscore_RK, gold_R, taught_R, domain_R, normalised=True
        )
        if own_R is not None:
            own = {"own_R": own_R, "scale_R": scale_R}
            target = replace(target, **own, advantage_R=advantage_R, before_R=before_R)
        sums = (gold_loss if gold_only else head_loss).sums(head, hidden_RD, target)
        return {
            "loss": sums[0].clone(),  # FSDP2 hooks on it, and warns of views
            "cross_entropy": sums[1].detach(),
            "divergence": sums[2].detach(),
            "taught_D": taught_R.sum()[None]
            if domain_R is None
            else torch.bincount(domain_R[taught_R], minlength=domains),
            "share_D": sums[3 : 3 + domains].detach(),
            "lead_D": sums[3 + domains :].detach(),
        }

    model.forward = forward
    return model
