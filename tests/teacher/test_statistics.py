from __future__ import annotations

import numpy as np
import pytest
import torch

from infifusion.teacher.statistics import _by_torch, statistics


def reference(logits_CV: torch.Tensor, gold_C: torch.Tensor) -> dict[str, np.ndarray]:
    """In float64."""
    exact_CV = logits_CV.double()
    log_p_CV = exact_CV.log_softmax(dim=1)
    entropy_C = -(log_p_CV.exp() * log_p_CV).nan_to_num(0.0).sum(dim=1)
    return {
        "lse_U": exact_CV.logsumexp(dim=1).numpy(),
        "entropy_U": entropy_C.numpy(),
        "gold_U": log_p_CV.gather(1, gold_C[:, None])[:, 0].numpy(),
        "mean_U": exact_CV.mean(dim=1).numpy(),
        "std_U": exact_CV.std(dim=1, correction=0).numpy(),
    }


@pytest.mark.parametrize("size", [4, 255, 256, 257, 1000, 32_000])
@pytest.mark.parametrize("spread", [1e-3, 1.0, 12.0])
@pytest.mark.parametrize("shift", [0.0, 80.0])
def test_compiled_statistics_equal_float64_ones(size: int, spread: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(size)
    logits_CV = torch.randn(7, size, generator=generator) * spread + shift
    gold_C = torch.randint(0, size, (7,), generator=generator)
    top_k = min(10, size)
    found = statistics(logits_CV, gold_C, top_k)
    for name, expected_C in reference(logits_CV, gold_C).items():
        scale = max(1.0, abs(shift))
        np.testing.assert_allclose(getattr(found, name), expected_C, rtol=1e-5, atol=1e-5 * scale)
    top_CK, ids_CK = logits_CV.topk(top_k, dim=1)
    log_p_CK = top_CK.double() - logits_CV.double().logsumexp(dim=1, keepdim=True)
    np.testing.assert_allclose(found.logprob_UK, log_p_CK, rtol=1e-5, atol=1e-5 * max(1.0, shift))
    assert np.array_equal(np.sort(found.ids_UK), np.sort(ids_CK.numpy()))


def test_both_roads_agree() -> None:
    logits_CV = torch.randn(5, 700, generator=torch.Generator().manual_seed(0)) * 3
    gold_C = torch.arange(5)
    one, other = statistics(logits_CV, gold_C, 8), _by_torch(logits_CV, gold_C, 8)
    for name in one.__dataclass_fields__:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-5, atol=1e-5)


def test_equal_logits_are_kept_by_id_and_a_wide_k_is_no_problem() -> None:
    logits_CV = torch.zeros(1, 600)
    logits_CV[0, 500] = 1.0
    found = statistics(logits_CV, torch.zeros(1, dtype=torch.long), 4)
    assert found.ids_UK.tolist() == [[500, 0, 1, 2]]
    wide = statistics(logits_CV, torch.zeros(1, dtype=torch.long), 300)
    assert wide.ids_UK[0, 0] == 500 and len(set(wide.ids_UK[0].tolist())) == 300


def test_masked_entries_have_no_probability_and_add_nothing_to_the_entropy() -> None:
    logits_CV = torch.full((1, 400), -torch.inf)
    logits_CV[0, 3] = logits_CV[0, 390] = 2.0
    found = statistics(logits_CV, torch.tensor([3]), 2)
    assert found.ids_UK.tolist() == [[3, 390]]
    # Two equal entries: log 2 nats, and the log-sum-exp is 2 + log 2.
    assert found.entropy_U[0] == pytest.approx(np.log(2), abs=1e-6)
    assert found.lse_U[0] == pytest.approx(2 + np.log(2), abs=1e-6)
    assert found.gold_U[0] == pytest.approx(-np.log(2), abs=1e-6)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [0, 17, 299])
def test_what_is_not_a_number_shows_in_the_log_sum_exp(bad: float, place: int) -> None:
    logits_CV = torch.randn(3, 300, generator=torch.Generator().manual_seed(1))
    logits_CV[1, place] = bad
    found = statistics(logits_CV, torch.zeros(3, dtype=torch.long), 4)
    assert np.isfinite(found.lse_U).tolist() == [True, False, True]


def test_threads_do_not_change_a_bit() -> None:
    logits_CV = torch.randn(9, 3000, generator=torch.Generator().manual_seed(2))
    gold_C = torch.arange(9)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = statistics(logits_CV, gold_C, 5)
        torch.set_num_threads(4)
        four = statistics(logits_CV, gold_C, 5)
    finally:
        torch.set_num_threads(before)
    for name in one.__dataclass_fields__:
        assert np.array_equal(getattr(one, name), getattr(four, name))
