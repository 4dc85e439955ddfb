from __future__ import annotations

import math

import numpy as np
import pytest

from infifusion.fuse import FUSION_FUNCTIONS, PARAMS
from infifusion.fuse.by_example import latest_by_example, teaches_example
from infifusion.fuse.gate import better_in_domain, better_on_response, shut
from infifusion.fuse.mixture import TAIL_IDS, mix, only_aligned
from infifusion.types import Aligned, Target

WEIGHTINGS = ["uncertainty", "bayes", "min_ce", "avg_ce", "mean", "max_confidence"]
LOGIT_LEVEL = ["mean_logit", "max_logit", "uncertainty_logit"]


def aligned(**changes: object) -> Aligned:
    """Two sources at three positions of two examples (0, 0, 1).

    Position 1 is not aligned for source 1. Source 0 believes {1: .6, 2: .3}, source 1
    {2: .5, 3: .4}.
    """
    ids = np.asarray([[[1, 2]] * 3, [[2, 3]] * 3], np.int32)
    prob = np.asarray([[[0.6, 0.3]] * 3, [[0.5, 0.4]] * 3], np.float32)
    mask = np.asarray([[True, True, True], [True, False, True]])
    prob[~mask] = 0
    ids[~mask] = -1
    values = {
        "ids_STK": ids,
        "prob_STK": prob,
        "tail_ST": np.where(mask, 0.1, 0).astype(np.float32),
        "aligned_ST": mask,
        "entropy_ST": np.asarray([[0.5, 1.0, 2.0], [1.5, 0.0, 1.0]], np.float32),
        "top_ST": np.asarray([[0.6, 0.6, 0.3], [0.5, 0.0, 0.9]], np.float32),
        "zscore_STK": np.asarray([[[3.0, 1.0]] * 3, [[5.0, 2.0]] * 3], np.float32),
        "bits_SN": np.asarray([[1.0, 3.0], [2.0, 1.0]], np.float32),
        "evidence": lambda forgetting: np.asarray(
            [[0.0, -1.0, -2.0], [0.0, 0.0, -1.0]], np.float32
        ),
        "example_T": np.asarray([0, 0, 1]),
    }
    return Aligned(**{**values, **changes})


def fuse(name: str, beliefs: Aligned, **params: object) -> Target:
    return FUSION_FUNCTIONS[name](beliefs, PARAMS[name](**params), keep=4)


def row(target: Target, t: int) -> dict[int, float]:
    return {
        int(i): float(p)
        for i, p in zip(target.ids_TK[t], target.prob_TK[t], strict=False)
        if i >= 0
    }


def test_every_fusion_function_is_tested_here() -> None:
    assert sorted(WEIGHTINGS + LOGIT_LEVEL) == sorted(FUSION_FUNCTIONS) == sorted(PARAMS)


@pytest.mark.parametrize("name", WEIGHTINGS + LOGIT_LEVEL)
def test_one_source_is_the_identity(name: str) -> None:
    both = aligned()
    one = aligned(
        **{
            f: getattr(both, f)[:1] for f in both.__dataclass_fields__ if f.split("_")[-1][0] == "S"
        },
        evidence=lambda forgetting: np.zeros((1, 3), np.float32),
    )
    found = fuse(name, one)
    assert found.weight_ST.tolist() == [[1, 1, 1]]
    for t in range(3):
        assert row(found, t) == pytest.approx({1: 0.6, 2: 0.3}, rel=1e-5)


@pytest.mark.parametrize("name", WEIGHTINGS + LOGIT_LEVEL)
def test_an_unaligned_source_has_weight_zero_and_the_other_one_all(name: str) -> None:
    found = fuse(name, aligned())
    assert found.weight_ST[:, 1].tolist() == [1, 0]
    assert row(found, 1) == pytest.approx({1: 0.6, 2: 0.3}, rel=1e-5)


@pytest.mark.parametrize("name", WEIGHTINGS + LOGIT_LEVEL)
def test_where_no_source_is_aligned_the_target_is_empty(name: str) -> None:
    found = fuse(name, aligned(aligned_ST=np.zeros((2, 3), bool)))
    assert (found.weight_ST == 0).all() and (found.ids_TK == -1).all()
    assert (found.prob_TK == 0).all()


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_weights_sum_to_one_and_mix_the_distributions(name: str) -> None:
    beliefs = aligned()
    found = fuse(name, beliefs)
    assert found.weight_ST.sum(axis=0) == pytest.approx(1)
    w, v = found.weight_ST[:, 0].tolist()
    # P(1) = w .6, P(2) = w .3 + v .5, P(3) = v .4; what is 0 is not listed.
    expected = {1: 0.6 * w, 2: 0.3 * w + 0.5 * v, 3: 0.4 * v}
    assert row(found, 0) == pytest.approx({i: p for i, p in expected.items() if p}, rel=1e-5)
    assert found.zscore_TK[0] == pytest.approx([3 * w + 5 * v, 1 * w + 2 * v])


def test_uncertainty_weighs_by_exp_of_minus_entropy() -> None:
    found = fuse("uncertainty", aligned())
    # entropies .5 and 1.5: exp(-.5) / (exp(-.5) + exp(-1.5)) = 1 / (1 + exp(-1))
    assert found.weight_ST[0, 0] == pytest.approx(1 / (1 + math.exp(-1)))
    sharper = fuse("uncertainty", aligned(), kappa=0.5)
    assert sharper.weight_ST[0, 0] == pytest.approx(1 / (1 + math.exp(-2)))


def test_uncertainty_with_equal_entropies_is_the_mean() -> None:
    even = aligned(entropy_ST=np.ones((2, 3), np.float32))
    found, mean = fuse("uncertainty", even), fuse("mean", even)
    np.testing.assert_allclose(found.prob_TK, mean.prob_TK, rtol=1e-6)


def test_the_inverse_form_weighs_by_one_over_entropy() -> None:
    found = fuse("uncertainty", aligned(), form="inverse", eps=0.5)
    # 1 / 1 against 1 / 2
    assert found.weight_ST[:, 0] == pytest.approx([2 / 3, 1 / 3])


def test_uncertainty_over_the_sequence_uses_the_mean_over_aligned_positions() -> None:
    found = fuse("uncertainty", aligned(), over="sequence")
    # Example 0: source 0 has mean (.5 + 1) / 2 = .75, source 1 only position 0: 1.5.
    assert found.weight_ST[0, 0] == pytest.approx(1 / (1 + math.exp(-0.75)))
    # Example 1: 2 against 1.
    assert found.weight_ST[0, 2] == pytest.approx(1 / (1 + math.exp(1)))


def test_min_ce_gives_the_sequence_to_the_source_with_fewest_bits_per_byte() -> None:
    assert fuse("min_ce", aligned()).weight_ST.tolist() == [[1, 1, 0], [0, 0, 1]]


def test_avg_ce_is_a_softmax_of_bits_per_byte() -> None:
    found = fuse("avg_ce", aligned(), kappa=2.0)
    # bits 1 and 2 over kappa 2
    assert found.weight_ST[0, 0] == pytest.approx(1 / (1 + math.exp(-0.5)))


def test_max_confidence_follows_the_top_probability_token_by_token() -> None:
    assert fuse("max_confidence", aligned()).weight_ST.tolist() == [[1, 1, 0], [0, 0, 1]]


def test_bayes_starts_at_the_prior_and_follows_the_evidence() -> None:
    found = fuse("bayes", aligned(), prior=[3.0, 1.0])
    assert found.weight_ST[:, 0] == pytest.approx([0.75, 0.25])
    # exp(-2) * 3 against exp(-1) * 1
    odds = 3 * math.exp(-2) / (3 * math.exp(-2) + math.exp(-1))
    assert found.weight_ST[0, 2] == pytest.approx(odds)


def test_bayes_refuses_a_prior_of_another_length() -> None:
    with pytest.raises(ValueError, match="expected 2 positive prior weights"):
        fuse("bayes", aligned(), prior=[1.0])


def test_mean_logit_is_the_normalised_geometric_mean() -> None:
    found = fuse("mean_logit", aligned())
    low = 0.1 / TAIL_IDS  # what a source's tail gives to one id outside its kept ones
    score = {1: (0.6 * low) ** 0.5, 2: (0.3 * 0.5) ** 0.5, 3: (low * 0.4) ** 0.5}
    total = sum(score.values()) + 0.1  # the tails' geometric mean is 0.1
    assert row(found, 0) == pytest.approx({i: p / total for i, p in score.items()}, rel=1e-4)


def test_max_logit_is_the_normalised_largest_probability() -> None:
    found = fuse("max_logit", aligned())
    total = 0.6 + 0.5 + 0.4 + 0.1
    expected = {1: 0.6 / total, 2: 0.5 / total, 3: 0.4 / total}
    assert row(found, 0) == pytest.approx(expected, rel=1e-5)


def test_uncertainty_logit_with_equal_entropies_is_mean_logit() -> None:
    even = aligned(entropy_ST=np.ones((2, 3), np.float32))
    found, mean = fuse("uncertainty_logit", even), fuse("mean_logit", even)
    np.testing.assert_allclose(found.prob_TK, mean.prob_TK, rtol=1e-6)


def test_only_the_largest_entries_are_kept() -> None:
    found = FUSION_FUNCTIONS["mean"](aligned(), PARAMS["mean"](), keep=1)
    # P(2) = (.3 + .5) / 2 is the largest.
    assert found.ids_TK[0].tolist() == [2] and found.prob_TK[0] == pytest.approx([0.4])


def test_the_gate_shuts_sources_that_are_not_better_than_the_pivot() -> None:
    beliefs = aligned()
    open_SN = better_on_response(beliefs.bits_SN, np.asarray([1.5, 1.0], np.float32))
    # Example 0: bits 1 < 1.5 teaches, 2 does not. Example 1: 3 does not, 1 = 1 is no better.
    gated = shut(beliefs, open_SN)
    assert gated.aligned_ST.tolist() == [[True, True, False], [False, False, False]]
    unknown = np.asarray([[np.nan, 1.0]], np.float32)
    assert better_on_response(unknown, np.ones(2, np.float32) * 2).tolist() == [[False, True]]


def test_the_gate_never_shuts_the_pivot_itself() -> None:
    gated = shut(aligned(), np.zeros((2, 2), bool), exempt=1)
    assert gated.aligned_ST.tolist() == [[False] * 3, [True, False, True]]


def test_the_gate_of_a_domain_follows_the_majority_of_its_responses() -> None:
    domains = ["a", "b", "a", "b", "a", "b"]
    pivot = np.full(6, 2.0, np.float32)
    # Source 0 wins a twice of three, b once; source 1 wins half of nothing: a once, b thrice.
    bits = np.asarray([[1, 9, 1, 1, 9, 9], [1, 1, 3, 1, 3, 1]], np.float32)
    found = better_in_domain(bits, pivot, domains)
    assert found.tolist() == [[True, False] * 3, [False, True] * 3]
    # Exactly half is no majority, however large the mean gain.
    even = better_in_domain(np.asarray([[0, 3]], np.float32), pivot[:2], ["a", "a"])
    assert even.tolist() == [[False, False]]


def test_min_ce_is_silent_where_the_best_source_is_not_aligned() -> None:
    # Source 1 is the best of example 0, but has no boundary at position 1.
    found = fuse("min_ce", aligned(bits_SN=np.asarray([[2.0, 3.0], [1.0, 1.0]], np.float32)))
    assert found.weight_ST.tolist() == [[0, 0, 0], [1, 0, 1]]


def test_weights_of_a_response_need_a_majority_that_is_aligned() -> None:
    mask = np.asarray([[True, False, True, False], [True, True, False, False]])
    weight = np.asarray([[0.8] * 4, [0.2] * 4], np.float32)
    found = only_aligned(weight, mask)
    assert found == pytest.approx(np.asarray([[0.8, 0, 1, 0], [0.2, 0, 0, 0]]))


def test_a_source_teaches_an_example_in_which_it_is_aligned_anywhere() -> None:
    mask = np.asarray([[True, False, False], [False, False, True]])
    found = teaches_example(mask, np.asarray([0, 0, 1]))
    assert found.tolist() == [[True, True, False], [False, False, True]]


def test_the_latest_values_are_those_of_the_same_example() -> None:
    value = np.asarray([[1.0, 2.0, 3.0, 4.0, 5.0]], np.float32)
    known = np.asarray([True, False, True, False, False])
    found, there = latest_by_example(value, known, np.asarray([0, 0, 0, 0, 1]))
    assert there.tolist() == [True, True, True, True, False]
    assert found[0, there].tolist() == [1.0, 1.0, 3.0, 3.0]


def test_bayes_keeps_its_weights_until_all_sources_share_a_boundary_again() -> None:
    # Position 1 of example 0 has no boundary of source 1: the prior of position 0 still holds.
    found = fuse("bayes", aligned(), prior=[1.0, 3.0])
    assert found.weight_ST[:, 1].tolist() == [0, 0], "source 1 holds three quarters"
    assert fuse("bayes", aligned(), prior=[3.0, 1.0]).weight_ST[:, 1].tolist() == [1, 0]


@pytest.mark.parametrize("name", WEIGHTINGS + LOGIT_LEVEL)
def test_the_vectorised_result_equals_one_position_at_a_time(name: str) -> None:
    rng = np.random.default_rng(1)
    sources, positions, width = 3, 40, 5
    prob = rng.dirichlet(np.ones(width + 1), (sources, positions)).astype(np.float32)
    mask = rng.random((sources, positions)) < 0.8
    ids = np.stack(
        [[rng.choice(9, width, replace=False) for _ in range(positions)] for _ in range(sources)]
    ).astype(np.int32)
    evidence = -rng.random((sources, positions)).astype(np.float32)
    whole = Aligned(
        ids_STK=np.where(mask[..., None], ids, -1).astype(np.int32),
        prob_STK=np.where(mask[..., None], prob[..., :width], 0),
        tail_ST=np.where(mask, prob[..., width], 0),
        aligned_ST=mask,
        entropy_ST=rng.random((sources, positions)).astype(np.float32),
        top_ST=rng.random((sources, positions)).astype(np.float32),
        zscore_STK=rng.random((sources, positions, width)).astype(np.float32),
        bits_SN=rng.random((sources, positions)).astype(np.float32),
        evidence=lambda forgetting: evidence,
        example_T=np.arange(positions),
    )
    found = fuse(name, whole)
    for t in range(positions):
        here = Aligned(
            **{
                f: getattr(whole, f)[:, t : t + 1]
                for f in whole.__dataclass_fields__
                if f not in ("evidence", "example_T")
            },
            evidence=lambda forgetting, t=t: evidence[:, t : t + 1],
            example_T=np.zeros(1, dtype=np.int64),
        )
        alone = fuse(name, here)
        np.testing.assert_allclose(found.weight_ST[:, t], alone.weight_ST[:, 0], rtol=1e-6)
        assert row(found, t) == pytest.approx(row(alone, 0), rel=1e-5)


def test_mixing_equals_adding_up_in_a_dictionary() -> None:
    rng = np.random.default_rng(3)
    sources, positions, width, keep = 3, 400, 6, 7
    ids = np.stack(
        [[rng.permutation(12)[:width] for _ in range(positions)] for _ in range(sources)]
    ).astype(np.int32)
    ids[rng.random(ids.shape) < 0.1] = -1
    prob = np.where(ids >= 0, rng.random(ids.shape) / width, 0).astype(np.float32)
    weight_ST = rng.dirichlet(np.ones(sources), positions).T.astype(np.float32)
    weight_ST[:, :5] = 0
    beliefs = aligned(
        ids_STK=ids,
        prob_STK=prob,
        zscore_STK=rng.random((sources, positions, width)).astype(np.float32),
    )
    found = mix(beliefs, weight_ST, keep=keep)
    for t in range(positions):
        total: dict[int, float] = {}
        for s in range(sources):
            for token, p in zip(ids[s, t].tolist(), prob[s, t].tolist(), strict=True):
                if token >= 0 and weight_ST[s, t] > 0:
                    total[token] = total.get(token, 0) + p * float(weight_ST[s, t])
        largest = sorted(total.items(), key=lambda pair: -pair[1])[:keep]
        assert row(found, t) == pytest.approx(dict(largest), abs=1e-6)
        assert (np.diff(found.prob_TK[t]) <= 0).all()
