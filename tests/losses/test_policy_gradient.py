from __future__ import annotations

import math

import pytest
import torch

from infifusion.losses.policy_gradient import Params, policy_gradient
from infifusion.types import SparseTarget


def target(advantage: list[float], before: torch.Tensor, gold: list[int]) -> SparseTarget:
    nothing = torch.zeros(len(gold), 0)
    return SparseTarget(
        nothing.long(),
        nothing,
        None,
        torch.tensor(gold),
        advantage_R=torch.tensor(advantage, dtype=before.dtype),
        before_R=before,
    )


def test_fresh_text_has_the_gradient_of_the_advantage_times_the_log_probability() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    gold, advantage = [1, 4, 0], [0.7, -2.0, 0.0]
    before = torch.log_softmax(logits, 1).detach()[range(3), gold]
    loss = policy_gradient(logits, target(advantage, before, gold), Params())
    torch.testing.assert_close(loss, -torch.tensor(advantage, dtype=torch.float64))  # ratio 1
    loss.sum().backward()
    # d(-A log q_y) / d logits = -A (one-hot - q), by hand.
    hot = torch.nn.functional.one_hot(torch.tensor(gold), 5)
    expected = -torch.tensor(advantage)[:, None] * (hot - logits.detach().softmax(1))
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize(
    ("advantage", "moved", "loss", "learns"),
    [
        (1.0, 1.5, -1.2, False),  # likelier by half already: clipped at 1.2
        (1.0, 0.5, -0.5, True),
        (-1.0, 0.5, 0.8, False),  # rarer already
        (-1.0, 1.5, 1.5, True),
        (1.0, 1.1, -1.1, True),
    ],
)
def test_a_token_that_has_moved_far_enough_is_learnt_no_more(advantage, moved, loss, learns):
    logits = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    before = torch.tensor([math.log(0.25 / moved)], dtype=torch.float64)
    found = policy_gradient(logits, target([advantage], before, [2]), Params(clip=0.2))
    assert found.item() == pytest.approx(loss)
    found.sum().backward()
    assert bool(logits.grad.abs().sum() > 0) == learns


def test_its_mean_gradient_over_draws_is_that_of_the_reverse_kl() -> None:
    """sum_y q_y (log q_y - log p_y) grad log q_y, the gradient of KL(Q || P), exactly."""
    torch.manual_seed(1)
    logits = torch.randn(1, 6, dtype=torch.float64, requires_grad=True)
    log_p = torch.log_softmax(torch.randn(1, 6, dtype=torch.float64), 1)
    log_q = torch.log_softmax(logits, 1)
    kl = (log_q.exp() * (log_q - log_p)).sum()
    (expected,) = torch.autograd.grad(kl, logits)
    mean = torch.zeros_like(logits)
    for y in range(6):
        q = log_q.detach()[0, y]
        drawn = target([float(log_p[0, y] - q)], q[None], [y])
        (gradient,) = torch.autograd.grad(policy_gradient(logits, drawn, Params()).sum(), logits)
        mean += q.exp() * gradient
    torch.testing.assert_close(mean, expected, rtol=1e-6, atol=1e-7)


def test_a_span_of_two_tokens_gives_half_the_gradient_of_its_kl() -> None:
    """Its advantage in equal parts on both (align/spans.py), over all pairs of tokens of a
    vocabulary of 3."""
    torch.manual_seed(2)
    first = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    second = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)  # by the first token
    log_p = torch.log_softmax(torch.randn(9, dtype=torch.float64), 0).reshape(3, 3)
    log_q = torch.log_softmax(first, 1)[0][:, None] + torch.log_softmax(second, 1)
    kl = (log_q.exp() * (log_q - log_p)).sum()
    expected = torch.autograd.grad(kl, [first, second], retain_graph=True)
    mean = [torch.zeros_like(first), torch.zeros_like(second)]
    for a in range(3):
        for b in range(3):
            logits = torch.cat([first, second[a : a + 1]])
            before = torch.log_softmax(logits, 1).detach()[[0, 1], [a, b]]
            each = float(log_p[a, b] - log_q[a, b].detach()) / 2
            loss = policy_gradient(logits, target([each, each], before, [a, b]), Params()).sum()
            for total, part in zip(mean, torch.autograd.grad(loss, [first, second]), strict=True):
                total += log_q[a, b].detach().exp() * part
    for total, whole in zip(mean, expected, strict=True):
        torch.testing.assert_close(total, whole / 2, rtol=1e-6, atol=1e-7)


def test_a_target_without_advantages_is_refused() -> None:
    rows = SparseTarget(torch.zeros(1, 0).long(), torch.zeros(1, 0), None, torch.tensor([0]))
    with pytest.raises(ValueError, match="advantages"):
        policy_gradient(torch.zeros(1, 3), rows, Params())
