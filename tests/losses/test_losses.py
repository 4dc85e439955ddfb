from __future__ import annotations

import math

import pytest
import torch

from infifusion.losses import LOSSES, PARAMS
from infifusion.losses.sparse import TAIL_FLOOR, SparseTarget, log1mexp

DIVERGENCES = ["kl", "reverse_kl", "jsd"]


def target(ids: list, prob: list, zscore: list | None = None, gold: list | None = None):
    rows = len(ids)
    return SparseTarget(
        torch.tensor(ids),
        torch.tensor(prob, dtype=torch.float32),
        torch.tensor(zscore or [[0.0]] * rows, dtype=torch.float32),
        torch.tensor(gold or [0] * rows),
    )


def value(
    name: str, logits: torch.Tensor, sparse: SparseTarget, **params: float | bool
) -> torch.Tensor:
    return LOSSES[name](logits, sparse, PARAMS[name](**params))


def logits_of(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


def random_case(rows: int, vocabulary: int, kept: int, seed: int = 0):
    """Random logits and the top-`kept` entries of another random distribution."""
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, vocabulary, generator=draw)
    prob = (2 * torch.randn(rows, vocabulary, generator=draw)).softmax(1)
    top = prob.topk(kept, dim=1)
    return logits, prob, target(top.indices.tolist(), top.values.tolist())


def buckets(p: torch.Tensor, ids: torch.Tensor, tail_bucket: bool) -> torch.Tensor:
    """Dense float64 reference: kept probabilities and the tail, floored, renormalised; without the
    tail the kept probabilities, renormalised."""
    kept = p.gather(1, ids)
    if not tail_bucket:
        return kept / kept.sum(1, keepdim=True)
    tail = (1 - kept.sum(1, keepdim=True)).clamp_min(TAIL_FLOOR)
    both = torch.cat([kept, tail], dim=1)
    return both / both.sum(1, keepdim=True)


def reference(
    name: str, logits: torch.Tensor, prob: torch.Tensor, ids, t: float = 1.0, tail: bool = True
):
    """The three divergences in float64, written out directly."""
    p = buckets(prob, ids, tail) ** (1 / t)
    p = p / p.sum(1, keepdim=True)
    q = buckets((logits / t).softmax(1), ids, tail)

    def kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * (a / b).log()).sum(1)

    m = (p + q) / 2
    found = {"kl": kl(p, q), "reverse_kl": kl(q, p), "jsd": kl(p, m) / 2 + kl(q, m) / 2}[name]
    return found * t**2


def test_every_loss_is_tested_here() -> None:
    assert set(LOSSES) == set(PARAMS) == {*DIVERGENCES, "uld", "cross_entropy"}


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("kept", [3, 8])
@pytest.mark.parametrize("tail", [True, False])
def test_a_divergence_of_a_distribution_with_itself_is_zero(
    name: str, kept: int, tail: bool
) -> None:
    logits, _, _ = random_case(5, 8, kept)
    top = logits.softmax(1).topk(kept, dim=1)
    own = target(top.indices.tolist(), top.values.tolist())
    assert value(name, logits, own, tail=tail) == pytest.approx(0, abs=2e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("tail", [True, False])
def test_a_divergence_is_never_negative(name: str, tail: bool) -> None:
    for seed in range(20):
        logits, _, sparse = random_case(20, 12, 4, seed)
        assert (value(name, logits, sparse, tail=tail) > -1e-6).all()


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "jsd"])
def test_an_id_kept_with_probability_zero_is_one_of_the_tail(name: str) -> None:
    logits = torch.tensor([[0.0, 0.0, -20.0]])
    found = [
        LOSSES[name](
            logits,
            SparseTarget(
                torch.tensor([ids]), torch.tensor([prob]), torch.zeros(1, 2), torch.tensor([0])
            ),
            PARAMS[name](),
        ).item()
        for ids, prob in (([0, 1], [1.0, 0.0]), ([0, -1], [1.0, 0.0]))
    ]
    assert found[0] == found[1] > 0.2


def test_kl_by_hand() -> None:
    # P = {0: .5, 1: .25, tail: .25}; Q = (.25, .25, .5): ids 0 and 1 have .25, the tail .5.
    # .5 ln(.5/.25) + .25 ln(1) + .25 ln(.25/.5) = .5 ln 2 - .25 ln 2 = .25 ln 2
    found = value("kl", logits_of(0.25, 0.25, 0.5), target([[0, 1]], [[0.5, 0.25]]))
    assert found.item() == pytest.approx(0.25 * math.log(2), abs=1e-6)


def test_reverse_kl_by_hand() -> None:
    # .25 ln(.25/.5) + .25 ln(1) + .5 ln(.5/.25) = .25 ln 2
    found = value("reverse_kl", logits_of(0.25, 0.25, 0.5), target([[0, 1]], [[0.5, 0.25]]))
    assert found.item() == pytest.approx(0.25 * math.log(2), abs=1e-6)
    # Not symmetric: P = {0: .8, tail: .2}, Q = (.5, .5).
    # forward .8 ln 1.6 + .2 ln .4; reverse .5 ln .625 + .5 ln 2.5
    one = target([[0]], [[0.8]])
    logits = logits_of(0.5, 0.5)
    forward = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    backward = 0.5 * math.log(0.625) + 0.5 * math.log(2.5)
    assert value("kl", logits, one).item() == pytest.approx(forward, abs=1e-6)
    assert value("reverse_kl", logits, one).item() == pytest.approx(backward, abs=1e-6)


def test_jsd_by_hand_and_bounded_by_ln_2() -> None:
    # P = {0: .8, tail: .2}, Q = (.4, .6), M = (.6, .4).
    expected = 0.5 * (0.8 * math.log(8 / 6) + 0.2 * math.log(0.5))
    expected += 0.5 * (0.4 * math.log(4 / 6) + 0.6 * math.log(1.5))
    found = value("jsd", logits_of(0.4, 0.6), target([[0]], [[0.8]]))
    assert found.item() == pytest.approx(expected, abs=1e-6)
    far = value("jsd", torch.tensor([[0.0, 60.0]]), target([[0]], [[1.0]]))
    assert found.item() < far.item() <= math.log(2) + 1e-6


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("kept", [4, 10])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("tail", [True, False])
def test_values_and_gradients_equal_a_dense_float64_reference(
    name: str, kept: int, temperature: float, tail: bool
) -> None:
    logits, prob, sparse = random_case(6, 10, kept, seed=3)
    mine = logits.clone().requires_grad_()
    found = value(name, mine, sparse, temperature=temperature, tail=tail)
    found.sum().backward()
    theirs = logits.double().requires_grad_()
    expected = reference(name, theirs, prob.double(), sparse.ids_RK, temperature, tail)
    expected.sum().backward()
    # K = V leaves a tail of rounding size, floored at 1e-6 on both sides.
    tolerance = 1e-5 if kept < 10 else 5e-5
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-4, atol=tolerance)


def test_kl_without_the_tail_by_hand() -> None:
    # P = {0: .5, 1: .25} is (2/3, 1/3) over the kept ids; Q = (.25, .25, .5) is (1/2, 1/2).
    sparse = target([[0, 1]], [[0.5, 0.25]])
    logits = logits_of(0.25, 0.25, 0.5)
    expected = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    assert value("kl", logits, sparse, tail=False).item() == pytest.approx(expected, abs=1e-6)
    backward = 0.5 * math.log(3 / 4) + 0.5 * math.log(3 / 2)
    found = value("reverse_kl", logits, sparse, tail=False)
    assert found.item() == pytest.approx(backward, abs=1e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_without_the_tail_other_ids_neither_count_nor_learn(name: str) -> None:
    logits, _, sparse = random_case(5, 12, 4, seed=7)
    other = torch.ones_like(logits, dtype=torch.bool).scatter(1, sparse.ids_RK, False)
    moved = (logits + 3 * other).requires_grad_()
    found = value(name, moved, sparse, tail=False)
    torch.testing.assert_close(found, value(name, logits, sparse, tail=False))
    assert not torch.allclose(value(name, moved, sparse), value(name, logits, sparse))
    found.sum().backward()
    assert (moved.grad[other] == 0).all() and (moved.grad[~other] != 0).all()


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_without_the_tail_a_row_that_keeps_nothing_is_zero_with_a_zero_gradient(
    name: str, temperature: float
) -> None:
    # Row 0 is empty, row 1 keeps an id with probability 0, row 2 an ordinary pair and that too.
    ids = [[-1, -1, -1], [1, -1, -1], [0, 1, 2]]
    sparse = target(ids, [[0.0, 0, 0], [0.0, 0, 0], [0.6, 0.2, 0.0]])
    logits = torch.tensor([[1.0, 2, 3]] * 3, requires_grad=True)
    found = value(name, logits, sparse, tail=False, temperature=temperature)
    found.sum().backward()
    pair = target([[0, 1]], [[0.6, 0.2]])
    alone = value(name, logits.detach()[2:], pair, tail=False, temperature=temperature)
    assert found[:2].tolist() == [0, 0] and found[2].item() == pytest.approx(alone.item())
    assert (logits.grad[:2] == 0).all() and logits.grad[2, 2] == 0 and logits.grad[2, 0] != 0


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("tail", [True, False])
def test_unused_places_change_nothing(name: str, tail: bool) -> None:
    logits, _, sparse = random_case(4, 9, 3)
    pad = torch.full((4, 2), -1)
    padded = SparseTarget(
        torch.cat([sparse.ids_RK, pad], dim=1),
        torch.cat([sparse.prob_RK, torch.zeros(4, 2)], dim=1),
        sparse.zscore_RK,
        sparse.gold_R,
    )
    mine = logits.clone().requires_grad_()
    found = value(name, mine, padded, tail=tail)
    found.sum().backward()
    torch.testing.assert_close(found, value(name, logits, sparse, tail=tail))
    assert torch.isfinite(mine.grad).all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_sure_targets_and_sure_students_have_finite_losses_and_gradients(name: str) -> None:
    sparse = target([[0, 1]] * 3, [[1.0, 0.0], [0.5, 0.5], [0.9, 0.1]])
    logits = torch.tensor([[50.0, -50, -50], [-50.0, -50, 50], [0.0, 50, 50]], requires_grad=True)
    found = value(name, logits, sparse)
    found.sum().backward()
    assert torch.isfinite(found).all() and torch.isfinite(logits.grad).all()
    # The second student is surely wrong: kl must tell it so (the others are flat out there).
    assert name != "kl" or logits.grad[1].abs().sum() > 1e-3


def test_the_gradient_pushes_the_student_towards_the_target() -> None:
    for name in DIVERGENCES:
        logits, _, sparse = random_case(8, 9, 4, seed=5)
        logits.requires_grad_()
        before = value(name, logits, sparse).sum()
        before.backward()
        after = value(name, logits.detach() - 0.1 * logits.grad, sparse).sum()
        assert after < before


def test_uld_is_the_mean_distance_of_sorted_standardised_logits() -> None:
    # logits (3, 1, 2): mean 2, std sqrt(2/3); the top 2 standardised are 1.2247 and 0.
    z = 1 / math.sqrt(2 / 3)
    found = value("uld", torch.tensor([[3.0, 1.0, 2.0]]), target([[0]], [[1.0]], [[0.5, 1.0]]))
    assert found.item() == pytest.approx(((z - 1.0) + 0.5) / 2, abs=1e-6)
    same = value("uld", torch.tensor([[3.0, 1.0, 2.0]]), target([[0]], [[1.0]], [[0.0, z]]))
    assert same.item() == pytest.approx(0, abs=1e-6)


def test_uld_ignores_shift_and_scale_of_the_logits() -> None:
    logits, _, _ = random_case(4, 9, 3)
    sparse = target([[0]] * 4, [[1.0]] * 4, [[2.0, 1.0, 0.0]] * 4)
    torch.testing.assert_close(value("uld", logits, sparse), value("uld", 3 * logits + 7, sparse))


def test_cross_entropy_is_minus_the_log_probability_of_the_gold_token() -> None:
    found = value("cross_entropy", logits_of(0.2, 0.8), target([[0]], [[1.0]], gold=[0]))
    assert found.item() == pytest.approx(-math.log(0.2), abs=1e-6)


def test_log1mexp_is_exact_near_zero_and_far_below() -> None:
    x = torch.tensor([-1e-6, -0.1, -1.0, -40.0], dtype=torch.float64)
    near, far = [math.log(-math.expm1(v)) for v in (-1e-6, -0.1)], math.log1p(-math.exp(-40.0))
    expected = torch.tensor([*near, math.log1p(-math.exp(-1.0)), far], dtype=torch.float64)
    torch.testing.assert_close(log1mexp(x), expected, rtol=1e-10, atol=0)
