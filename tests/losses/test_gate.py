"""The gate that follows the pivot, against its formula and its limits."""

from __future__ import annotations

import pytest
import torch

from infifusion.losses.gate import share_of_sources
from infifusion.losses.sparse import SparseTarget


def share(source: float, pivot: float, doubt: float = 0.1) -> float:
    """Of one position with three tokens: the label is token 1, the row keeps tokens 1 and 0."""
    log_CV = torch.tensor([[1 - pivot, pivot, 0.0]]).log()
    ids, prob = torch.tensor([[1, 0]]), torch.tensor([[source, 1 - source]])
    target = SparseTarget(ids, prob, None, torch.tensor([1]))
    return float(share_of_sources(log_CV, target, doubt=doubt))


@pytest.mark.parametrize("pivot", [0.01, 0.3, 0.7])
def test_a_source_that_is_no_worse_than_the_pivot_counts_whole(pivot: float) -> None:
    assert share(pivot, pivot) == pytest.approx(1)
    assert share(pivot + 0.2, pivot) == 1


def test_it_counts_less_the_further_the_pivot_is_ahead() -> None:
    assert share(0.2, 0.5) == pytest.approx(2 * 0.3 / 0.9)
    shares = [share(0.1, pivot) for pivot in (0.1, 0.3, 0.6, 0.9)]
    assert shares == sorted(shares, reverse=True) and shares[0] > 2 * shares[-1]


def test_what_the_source_never_expected_and_the_pivot_knows_counts_least() -> None:
    assert share(0.0, 1.0) == pytest.approx(2 * 0.1 / 1.2)
    assert share(0.0, 1.0, doubt=1e-6) == pytest.approx(0, abs=1e-5)


def test_where_neither_expected_the_label_the_source_goes_on_teaching() -> None:
    """As where labels are wrong; with a smaller doubt it would not."""
    assert share(0.001, 0.02) > 0.9
    assert share(0.001, 0.02, doubt=1e-3) < 0.2


def test_a_label_that_is_not_kept_has_at_most_the_tail_and_the_smallest_kept() -> None:
    """Two rows of the label 3: a tail of 0.3 beside kept 0.5 and 0.2, and a tail of 0.1 with an
    unused place."""
    log_CV = torch.full((2, 4), 0.25).log()
    ids = torch.tensor([[0, 1], [2, -1]])
    prob = torch.tensor([[0.5, 0.2], [0.9, 0.0]])
    target = SparseTarget(ids, prob, None, torch.tensor([3, 3]))
    found = share_of_sources(log_CV, target, doubt=0.1)
    expected = torch.tensor([2 * 0.3 / (0.2 + 0.25 + 0.2), 2 * 0.2 / (0.1 + 0.25 + 0.2)])
    torch.testing.assert_close(found, expected)


def test_it_carries_no_gradient_of_its_own_where_it_is_used_without_one() -> None:
    log_CV = torch.randn(5, 7).log_softmax(1).requires_grad_()
    target = SparseTarget(
        torch.arange(10).view(5, 2) % 7, torch.full((5, 2), 0.4), None, torch.arange(5)
    )
    with torch.no_grad():
        assert not share_of_sources(log_CV, target, doubt=0.1).requires_grad
