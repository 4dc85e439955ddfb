"""The gate that follows the pivot, against its formula and its limits."""

from __future__ import annotations

import math

import pytest
import torch

from infifusion.losses.gate import RATE, WORTH, FollowingGate
from infifusion.losses.sparse import SparseTarget


def one(source: float) -> SparseTarget:
    """The label is token 1 of three, and the row keeps tokens 1 and 0."""
    ids, prob = torch.tensor([[1, 0]]), torch.tensor([[source, 1 - source]])
    return SparseTarget(ids, prob, None, torch.tensor([1]))


def both(source: float, pivot: float, *, doubt: float, prior: float) -> tuple[float, float]:
    """The share and the lead of one position, where the sources' part is `prior`."""
    gate = FollowingGate(domains=1, doubt=doubt)
    gate.kept = [math.log(prior / (1 - prior)) / WORTH]
    found = gate(torch.tensor([[1 - pivot, pivot, 0.0]]).log(), one(source))
    return float(found[0]), float(found[1])


def share(source: float, pivot: float, *, doubt: float = 0.1, prior: float = 0.5) -> float:
    return both(source, pivot, doubt=doubt, prior=prior)[0]


@pytest.mark.parametrize("prior", [0.1, 0.5, 0.8])
def test_where_both_are_equally_good_it_is_the_prior(prior: float) -> None:
    assert share(0.3, 0.3, prior=prior) == pytest.approx(prior)


def test_it_is_the_posterior_of_the_mixture_with_doubt() -> None:
    found, lead = both(0.2, 0.5, doubt=0.1, prior=0.3)
    assert found == pytest.approx(0.3 * 0.3 / (0.3 * 0.3 + 0.7 * 0.6))
    assert lead == pytest.approx(math.log(0.3 / 0.6))
    shares = [share(0.1, pivot) for pivot in (0.1, 0.3, 0.6, 0.9)]
    assert shares == sorted(shares, reverse=True) and shares[0] > 2.9 * shares[-1]


def test_what_the_sources_never_expected_and_the_pivot_knows_is_learnt_as_it_is() -> None:
    assert share(0.0, 1.0) == pytest.approx(0.1 / 1.2)
    assert share(0.0, 1.0, doubt=1e-6) == pytest.approx(0, abs=1e-5)


def test_where_neither_expected_the_label_the_domain_decides() -> None:
    """As where labels are wrong."""
    assert share(0.001, 0.02, prior=0.9) > 0.85
    assert share(0.001, 0.02, prior=0.9, doubt=1e-3) < 0.5


def test_a_label_that_is_not_kept_has_at_most_the_tail_and_the_smallest_kept() -> None:
    """Two rows of the label 3: a tail of 0.3 beside kept 0.5 and 0.2, and a tail of 0.1 with an
    unused place."""
    log_CV = torch.full((2, 4), 0.25).log()
    ids = torch.tensor([[0, 1], [2, -1]])
    prob = torch.tensor([[0.5, 0.2], [0.9, 0.0]])
    target = SparseTarget(ids, prob, None, torch.tensor([3, 3]))
    found = FollowingGate(domains=1, doubt=0.1)(log_CV, target)[0]
    torch.testing.assert_close(found, torch.tensor([0.3 / 0.65, 0.2 / 0.55]))


def test_domains_have_leads_of_their_own_that_move_by_a_tenth() -> None:
    gate = FollowingGate(domains=3, doubt=0.1)
    gate.learn([3.0, 0.0, -0.2], [4.0, 0.0, 2.0])
    moved = [RATE * 0.75, 0.0, RATE * -0.1]
    assert gate.kept == pytest.approx(moved)
    target = SparseTarget(
        torch.tensor([[0], [0], [0]]),
        torch.full((3, 1), 1 / 3),
        None,
        torch.zeros(3, dtype=torch.int64),
        domain_R=torch.tensor([2, 0, 1]),
    )
    found = gate(torch.full((3, 3), 1 / 3).log(), target)[0]
    expected = [1 / (1 + math.exp(-WORTH * moved[d])) for d in (2, 0, 1)]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_sources_that_fall_behind_fade_and_come_back() -> None:
    gate, level = FollowingGate(domains=1, doubt=0.1), torch.full((1, 3), 1 / 3).log()
    shares = []
    for lead in [0.5] * 30 + [-0.5] * 60 + [0.5] * 60:
        gate.learn([lead], [1])
        shares.append(float(gate(level, one(1 / 3))[0]))
    assert shares[29] > 0.98 and shares[89] < 0.02 and shares[-1] > 0.98


def test_the_target_is_the_mixture_on_average() -> None:
    """E over labels of the mixture of (1 - share) label + share P is the mixture itself."""
    source = torch.tensor([0.5, 0.3, 0.15, 0.05])
    pivot = torch.tensor([0.05, 0.4, 0.05, 0.5])
    gate = FollowingGate(domains=1, doubt=0.0)
    gate.kept = [math.log(0.3 / 0.7) / WORTH]
    target = SparseTarget(torch.arange(4).expand(4, 4), source.expand(4, 4), None, torch.arange(4))
    share_C = gate(pivot.log().expand(4, 4), target)[0]
    mixture = 0.3 * source + 0.7 * pivot
    rows = (1 - share_C)[:, None] * torch.eye(4) + share_C[:, None] * source
    torch.testing.assert_close((mixture[:, None] * rows).sum(0), mixture)
