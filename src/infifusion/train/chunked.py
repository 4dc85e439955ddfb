"""A model whose forward returns our loss, with logits of a few positions at a time.

Only response positions go through the head, `loss_rows` of them at once, recomputed in the
backward pass: no [B, L, V] tensor ever exists. The loss is computed inside the model's own forward
so that DDP, FSDP and peft see every use of a parameter.

Axes: B batch, L tokens, R response positions, C positions of a chunk, K kept entries, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from infifusion.lm_head import LanguageModelHead, split_head

# logits_CV, ids_CK, prob_CK, zscore_CK, gold_C -> loss_C
PositionLoss = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor
]


def with_position_loss(
    model: PreTrainedModel,
    loss: PositionLoss | None,
    *,
    gold_weight: float,
    loss_rows: int,
) -> PreTrainedModel:
    """The same model with `forward` replaced: batches of train.batches in, sums out.

    It returns a dict of sums over the batch's positions: loss (the objective, with gradient),
    cross_entropy and divergence (its parts, detached; the latter over taught positions), and
    taught, the number of those.

    At a taught position the objective is gold_weight * CE(gold) + (1 - gold_weight) * loss, at any
    other CE(gold) alone. `loss` None trains on the gold tokens everywhere.
    """
    head = split_head(model)

    def forward(
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        predicts_BL: torch.Tensor,
        gold_R: torch.Tensor,
        taught_R: torch.Tensor,
        ids_RK: torch.Tensor | None = None,
        prob_RK: torch.Tensor | None = None,
        zscore_RK: torch.Tensor | None = None,
        **_: object,
    ) -> dict[str, torch.Tensor]:
        hidden_RH = head.hidden(input_ids, attention_mask)[predicts_BL]
        target = None
        if loss is not None and ids_RK is not None:
            assert prob_RK is not None and zscore_RK is not None
            target = (ids_RK, prob_RK, zscore_RK)
        parts = []
        for start in range(0, len(gold_R), loss_rows):
            rows = slice(start, start + loss_rows)
            chunk_target = None if target is None else tuple(t[rows] for t in target)
            arguments = (
                head,
                loss,
                gold_weight,
                hidden_RH[rows],
                gold_R[rows],
                taught_R[rows],
                chunk_target,
            )
            if len(gold_R) > loss_rows and torch.is_grad_enabled():
                parts.append(checkpoint(_chunk_sums, *arguments, use_reentrant=False))
            else:
                parts.append(_chunk_sums(*arguments))
        sums = torch.stack(parts).sum(dim=0)
        return {
            "loss": sums[0],
            "cross_entropy": sums[1].detach(),
            "divergence": sums[2].detach(),
            "taught": taught_R.sum(),
        }

    model.forward = forward
    return model


def _chunk_sums(
    head: LanguageModelHead,
    loss: PositionLoss | None,
    gold_weight: float,
    hidden_CH: torch.Tensor,
    gold_C: torch.Tensor,
    taught_C: torch.Tensor,
    target: tuple[torch.Tensor, ...] | None,
) -> torch.Tensor:
    """[3]: sums of the objective, of cross-entropy, and of the divergence where taught."""
    logits_CV = head.logits(hidden_CH)
    ce_C = functional.cross_entropy(logits_CV, gold_C, reduction="none")
    if loss is None or target is None:
        total = ce_C.sum()
        return torch.stack([total, total, torch.zeros_like(total)])
    ids_CK, prob_CK, zscore_CK = target
    divergence_C = torch.where(taught_C, loss(logits_CV, ids_CK, prob_CK, zscore_CK, gold_C), 0)
    mixed_C = gold_weight * ce_C + (1 - gold_weight) * divergence_C
    objective_C = torch.where(taught_C, mixed_C, ce_C)
    return torch.stack([objective_C.sum(), ce_C.sum(), divergence_C.sum()])
