"""Our losses on text of the pivot's own against TRL's DistillationTrainer (its own divergence)."""

from __future__ import annotations

import pytest
import torch

from infifusion.losses import LOSSES, PARAMS
from infifusion.train.head_loss import HeadLoss
from infifusion.types import SparseTarget

trainer = pytest.importorskip("trl.trainer.distillation_trainer")


@pytest.mark.parametrize(
    ("loss", "params", "beta"),
    [
        ("kl", {}, 0.0),
        ("reverse_kl", {}, 1.0),
        ("jsd", {"beta": 0.5}, 0.5),
        ("jsd", {"beta": 0.1}, 0.1),
    ],
)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_value_and_gradient_are_those_of_trl(loss, params, beta, temperature) -> None:
    """One tokenizer, one source, the full vocabulary, in float64: per position to 1e-6."""
    torch.manual_seed(0)
    size, vocabulary, positions = 16, 40, 12
    body = torch.randn(1, positions, size, dtype=torch.float64)
    teacher = torch.randn(1, positions, 24, dtype=torch.float64)
    head = torch.randn(vocabulary, size, dtype=torch.float64) * 0.3
    teacher_head = torch.randn(vocabulary, 24, dtype=torch.float64) * 0.3
    mask = torch.ones(1, positions, dtype=torch.long)
    mask[0, -3:] = 0  # a shorter answer's padding

    theirs_in, theirs_head = body.clone().requires_grad_(), head.clone().requires_grad_()
    value, _, count = trainer._chunked_divergence_loss(
        theirs_in, teacher, theirs_head, teacher_head, mask, beta, temperature=temperature
    )
    value.backward()

    ours_in, ours_head = body.clone().requires_grad_(), head.clone().requires_grad_()
    learnt = mask[0].bool()
    hidden_RD = ours_in[0][learnt]
    prob_RV = (teacher[0][learnt] @ teacher_head.T / 1.0).softmax(1)
    rows = len(prob_RV)
    target = SparseTarget(
        torch.arange(vocabulary).expand(rows, -1),
        prob_RV,
        None,
        torch.zeros(rows, dtype=torch.long),
        torch.ones(rows, dtype=torch.bool),
        normalised=True,
        own_R=torch.ones(rows, dtype=torch.bool),
    )
    settings = PARAMS[loss](**params, temperature=temperature, tail=False)

    def position_loss(log_CV: torch.Tensor, part: SparseTarget) -> torch.Tensor:
        return LOSSES[loss](log_CV, part, settings)

    log_RV = torch.log_softmax(hidden_RD @ ours_head.T, 1)
    reduce = HeadLoss(position_loss, gold_weight=0.5, loss_rows=1024)
    sums = reduce._sums(
        log_RV, reduce._divergence(log_RV, target), reduce._gated(log_RV, target), target
    )
    ours = sums[0] / rows / temperature**2  # TRL leaves Hinton's factor out
    ours.backward()

    assert count == rows
    torch.testing.assert_close(ours, value.double(), rtol=0, atol=1e-6)  # theirs is float32
    torch.testing.assert_close(ours_in.grad, theirs_in.grad, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours_head.grad, theirs_head.grad, rtol=0, atol=1e-6)
