"""The gate that follows the pivot, against its formula, its limits and EM."""

from __future__ import annotations

import pytest
import torch

from infifusion.losses.gate import RATE, FollowingGate
from infifusion.losses.sparse import SparseTarget


def one(source: float) -> SparseTarget:
    """The label is token 1 of three, and the row keeps tokens 1 and 0."""
    ids, prob = torch.tensor([[1, 0]]), torch.tensor([[source, 1 - source]])
    return SparseTarget(ids, prob, None, torch.tensor([1]))


def share(source: float, pivot: float, *, doubt: float = 0.1, prior: float = 0.5) -> float:
    gate = FollowingGate(domains=1, doubt=doubt)
    gate.prior = [prior]
    return float(gate(torch.tensor([[1 - pivot, pivot, 0.0]]).log(), one(source)))


@pytest.mark.parametrize("prior", [0.1, 0.5, 0.8])
def test_where_both_are_equally_good_it_is_the_prior(prior: float) -> None:
    assert share(0.3, 0.3, prior=prior) == pytest.approx(prior)


def test_it_is_the_posterior_of_the_mixture_with_doubt() -> None:
    found = share(0.2, 0.5, prior=0.3)
    assert found == pytest.approx(0.3 * 0.3 / (0.3 * 0.3 + 0.7 * 0.6))
    shares = [share(0.1, pivot) for pivot in (0.1, 0.3, 0.6, 0.9)]
    assert shares == sorted(shares, reverse=True) and shares[0] > 2.9 * shares[-1]


def test_what_the_sources_never_expected_and_the_pivot_knows_is_learnt_as_it_is() -> None:
    assert share(0.0, 1.0) == pytest.approx(0.1 / 1.2)
    assert share(0.0, 1.0, doubt=1e-6) == pytest.approx(0, abs=1e-5)


def test_where_neither_expected_the_label_the_doubt_decides() -> None:
    """As where labels are wrong."""
    assert share(0.001, 0.02) > 0.45
    assert share(0.001, 0.02, doubt=1e-3) < 0.1


def test_a_label_that_is_not_kept_has_at_most_the_tail_and_the_smallest_kept() -> None:
    """Two rows of the label 3: a tail of 0.3 beside kept 0.5 and 0.2, and a tail of 0.1 with an
    unused place."""
    log_CV = torch.full((2, 4), 0.25).log()
    ids = torch.tensor([[0, 1], [2, -1]])
    prob = torch.tensor([[0.5, 0.2], [0.9, 0.0]])
    target = SparseTarget(ids, prob, None, torch.tensor([3, 3]))
    found = FollowingGate(domains=1, doubt=0.1)(log_CV, target)
    torch.testing.assert_close(found, torch.tensor([0.3 / 0.65, 0.2 / 0.55]))


def test_domains_have_priors_of_their_own_that_move_by_a_tenth() -> None:
    gate = FollowingGate(domains=3, doubt=0.1)
    gate.learn([3.0, 0.0, 0.2], [4.0, 0.0, 2.0])
    moved = [0.5 + RATE * 0.25, 0.5, 0.5 - RATE * 0.4]
    assert gate.prior == pytest.approx(moved)
    log_CV = torch.full((3, 3), 1 / 3).log()
    target = SparseTarget(
        torch.tensor([[0], [0], [0]]),
        torch.full((3, 1), 1 / 3),
        None,
        torch.zeros(3, dtype=torch.int64),
        domain_R=torch.tensor([2, 0, 1]),
    )
    found = gate(log_CV, target)
    torch.testing.assert_close(found, torch.tensor([moved[2], moved[0], moved[1]]))


@pytest.mark.parametrize("part", [0.2, 0.7])
def test_the_prior_goes_to_the_part_that_the_tokens_came_from(part: float) -> None:
    """Labels drawn from part P + (1 - part) Q: EM finds the part."""
    draw = torch.Generator().manual_seed(0)
    source = torch.tensor([0.7, 0.1, 0.1, 0.1])
    pivot = torch.tensor([0.1, 0.1, 0.2, 0.6])
    gate = FollowingGate(domains=1, doubt=1e-6)
    count = 4000
    for _ in range(150):
        gold = torch.multinomial(
            part * source + (1 - part) * pivot, count, replacement=True, generator=draw
        )
        target = SparseTarget(torch.arange(4).expand(count, 4), source.expand(count, 4), None, gold)
        gate.learn([float(gate(pivot.log().expand(count, 4), target).sum())], [count])
    assert gate.prior[0] == pytest.approx(part, abs=0.02)


def test_the_target_is_the_mixture_on_average() -> None:
    """E over labels of the mixture of (1 - share) label + share P is the mixture itself."""
    source = torch.tensor([0.5, 0.3, 0.15, 0.05])
    pivot = torch.tensor([0.05, 0.4, 0.05, 0.5])
    gate = FollowingGate(domains=1, doubt=0.0)
    gate.prior = [0.3]
    target = SparseTarget(torch.arange(4).expand(4, 4), source.expand(4, 4), None, torch.arange(4))
    share_C = gate(pivot.log().expand(4, 4), target)
    mixture = 0.3 * source + 0.7 * pivot
    rows = (1 - share_C)[:, None] * torch.eye(4) + share_C[:, None] * source
    torch.testing.assert_close((mixture[:, None] * rows).sum(0), mixture)
