"""Merge methods: identities and values worked out by hand. Axes: S models, P positions."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from infifusion.merge.blocks.blocks import Blocks, Raw
from infifusion.merge.blocks.result import in_memory
from infifusion.merge.methods import METHODS
from infifusion.merge.methods.rsaf import gaussian_skewness
from infifusion.merge.methods.rsaf import skewness as skewness_of_powers

NEEDS_BASE = {name for name, method in METHODS.items() if method.base == "needed"}
BASE = torch.tensor([1.0, 1.0, 1.0, 1.0])
DELTA = torch.tensor([[4.0, 1.0, 0.0, 2.0], [2.0, -3.0, 0.0, 2.0]])


def run(method, base, models, *, seed=0, **params):
    blocks = Blocks(
        None if base is None else Raw(base.numpy(), "F32"),
        [Raw(model.numpy(), "F32") for model in models],
        tuple(models[0].shape),
        seed=seed,
    )
    merged = METHODS[method].function(blocks, METHODS[method].params(**params))
    return SimpleNamespace(tensor_P=torch.from_numpy(in_memory(merged)), details=merged.details)


def skewness(values):
    x = values.double().numpy()
    return skewness_of_powers(np.array([len(x), x.sum(), (x**2).sum(), (x**3).sum()]))


def close(found, expected):
    torch.testing.assert_close(
        torch.as_tensor(found), torch.as_tensor(expected), rtol=1e-5, atol=1e-6
    )


KEEP_ALL = {
    "rsaf": {"tau0": 1.0, "beta": 0.0},
    "sce": {"select_topk": 1.0},
    "sce_fusechat": {"select_topk": 0.5},
    "ties": {"density": 1.0},
    "dare_ties": {"density": 1.0, "normalize": True},
    "dare_linear": {"density": 1.0, "normalize": True},
    "della": {"density": 1.0, "normalize": True},
    "della_linear": {"density": 1.0, "normalize": True},
    "breadcrumbs": {"density": 1.0, "normalize": True},
    "breadcrumbs_ties": {"density": 1.0, "normalize": True},
    "task_arithmetic": {"normalize": True},
    "linear": {},
    "slerp": {"t": 0.3},
    "nuslerp": {},
    "multislerp": {},
    "karcher": {},
    "model_stock": {},
    "nearswap": {"t": 1e9},
    "ram": {"epsilon": 0.0},
    "ramplus_tl": {"epsilon": 0.0},
    "passthrough": {},
}
ONE_MODEL = {"nearswap", "arcee_fusion", "passthrough"}


@pytest.mark.parametrize("method", sorted(KEEP_ALL))
@pytest.mark.parametrize("size", [0, 1, 8, 1000])
def test_merging_copies_gives_the_copy(method, size):
    torch.manual_seed(size)
    base, copy = torch.randn(size), torch.randn(size)
    copies = [copy] if method in ONE_MODEL else [copy, copy]
    first = base if method in NEEDS_BASE else None
    close(run(method, first, torch.stack(copies), **KEEP_ALL[method]).tensor_P, copy)


def test_every_method_but_arcee_fusion_is_asked_for_the_copy():
    # arcee_fusion takes over outliers alone, never a whole copy.
    assert set(KEEP_ALL) | {"arcee_fusion"} == set(METHODS)


@pytest.mark.parametrize("method", sorted(m for m in METHODS if "lambda" in METHODS[m].parameters))
def test_lambda_zero_gives_the_base(method):
    assert torch.equal(run(method, BASE, BASE + DELTA, **{"lambda": 0.0}).tensor_P, BASE)


@pytest.mark.parametrize("method", sorted(NEEDS_BASE))
def test_models_equal_to_the_base_give_the_base(method):
    models = torch.stack([BASE] * (1 if method in ONE_MODEL else 2))
    params = {"t": 0.5} if method == "nearswap" else {}
    assert torch.equal(run(method, BASE, models, **params).tensor_P, BASE)


def test_task_arithmetic_adds_weighted_deltas():
    # 0.5 [4, 1, 0, 2] + 2 [2, -3, 0, 2] = [6, -5.5, 0, 5]; times lambda 0.5: [3, -2.75, 0, 2.5]
    merged = run("task_arithmetic", BASE, BASE + DELTA, weight=[0.5, 2.0], **{"lambda": 0.5})
    close(merged.tensor_P, [4.0, -1.75, 1.0, 3.5])


def test_linear_divides_by_the_sum_of_weights():
    # (1 * [2, 4] + 3 * [6, 0]) / 4 = [5, 1]
    models = torch.tensor([[2.0, 4.0], [6.0, 0.0]])
    close(run("linear", None, models, weight=[1.0, 3.0]).tensor_P, [5.0, 1.0])
    close(run("linear", None, models, weight=[1.0, 3.0], normalize=False).tensor_P, [20.0, 4.0])


def test_linear_refuses_weights_that_sum_to_zero():
    with pytest.raises(ValueError, match="sum to zero"):
        run("linear", None, torch.ones(2, 2), weight=[1.0, -1.0])


@pytest.mark.parametrize("method", ["task_arithmetic", "dare_linear", "breadcrumbs"])
def test_weights_that_cancel_are_not_divided_by(method):
    with pytest.raises(ValueError, match="the weights sum to zero"):
        run(method, BASE, BASE + DELTA, weight=[0.5, -0.5], normalize=True)


def test_a_list_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="'weight' holds 3 values, but 2 models"):
        run("ties", BASE, BASE + DELTA, weight=[1.0, 1.0, 1.0])


def test_ties_trims_elects_and_averages_what_agrees():
    # density 0.5 of 4: two largest magnitudes each: [4, 0, 0, 2] and [2 or 0, -3, 0, 2 or 0];
    # the tie is avoided here by 2.5 in place of the last 2.
    delta = torch.tensor([[4.0, 1.0, 0.0, 2.0], [2.0, -3.0, 0.0, 2.5]])
    # trimmed [4, 0, 0, 2] and [0, -3, 0, 2.5]; signs +, -, +, +;
    # disjoint means: 4 / 1, -3 / 1, 0, (2 + 2.5) / 2 = 2.25
    close(run("ties", BASE, BASE + delta, density=0.5).tensor_P, [5.0, -2.0, 1.0, 3.25])


def test_ties_erases_the_minority_sign():
    # position 1: 1 - 3 = -2 elects minus: only -3 stays. normalize divides by the one weight.
    close(run("ties", BASE, BASE + DELTA, density=1.0).tensor_P, [4.0, -2.0, 1.0, 3.0])


def test_dare_drops_at_the_density_and_keeps_the_expectation():
    base, model = torch.zeros(200_000), torch.ones(1, 200_000)
    for method in ("dare_linear", "dare_ties"):
        merged = run(method, base, model, density=0.25).tensor_P
        assert set(merged.unique().tolist()) == {0.0, 4.0}  # kept entries are 1 / 0.25
        # standard error of the share: sqrt(.25 * .75 / 200000) = 0.00097
        assert abs(float((merged > 0).float().mean()) - 0.25) < 0.005
        plain = run(method, base, model, density=0.25, rescale=False).tensor_P
        assert float(plain.max()) == 1.0


def test_dare_ties_erases_the_minority_sign_and_dare_linear_does_not():
    # density 1: dare_linear sums [6, -2, 0, 4]; dare_ties drops the +1 of position 1: [6, -3, 0, 4]
    close(run("dare_linear", BASE, BASE + DELTA, density=1.0).tensor_P, [7.0, -1.0, 1.0, 5.0])
    close(run("dare_ties", BASE, BASE + DELTA, density=1.0).tensor_P, [7.0, -2.0, 1.0, 5.0])


def test_dare_draws_the_same_from_the_same_seed_and_other_from_another():
    base, models = torch.zeros(1000), torch.randn(2, 1000)
    one = run("dare_linear", base, models, seed=3, density=0.5).tensor_P
    assert torch.equal(one, run("dare_linear", base, models, seed=3, density=0.5).tensor_P)
    assert not torch.equal(one, run("dare_linear", base, models, seed=4, density=0.5).tensor_P)


def test_slerp_half_way_between_right_angles_has_length_one():
    # angle 90 degrees, t = 1/3: sin 60 e1 + sin 30 e2 = [sqrt(3)/2, 1/2]
    merged = run("slerp", torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 1.0]]), t=1 / 3)
    close(merged.tensor_P, [math.sqrt(3) / 2, 0.5])
    assert merged.details["cosine"] == 0.0


def test_slerp_ends_are_the_two_models_and_opposite_ends_are_linear():
    first, second = torch.randn(50), torch.randn(50)
    close(run("slerp", first, second[None], t=0.0).tensor_P, first)
    close(run("slerp", first, second[None], t=1.0).tensor_P, second)
    # opposite: cosine -1, (1 - .25) v + .25 (-v) = .5 v
    close(run("slerp", first, -first[None], t=0.25).tensor_P, 0.5 * first)


def test_slerp_refuses_three_models():
    with pytest.raises(ValueError, match="between two models; found 3"):
        run("slerp", BASE, BASE + DELTA, t=0.5)


def test_sce_by_hand():
    # variances of (4,2), (1,-3), (0,0), (2,2): 1, 4, 0, 0. floor(0.5 * 2) = 1: position 1 is kept.
    # squares there 1 and 9: coefficients 0.1, 0.9. Sum 1 - 3 < 0: the +1 is erased, -3 * .9 / .9.
    merged = run("sce", BASE, BASE + DELTA, select_topk=0.5)
    close(merged.tensor_P, [1.0, -2.0, 1.0, 1.0])
    close(merged.details["coefficients"], [0.1, 0.9])
    assert merged.details["kept"] == 1


def test_sce_mask_of_coefficients_lets_every_position_through():
    # coefficients 0.1, 0.9 as above; position 0: .1 * 4 + .9 * 2 = 2.2; 1: -3; 3: 2.
    merged = run("sce_fusechat", BASE, BASE + DELTA, select_topk=0.5)
    close(merged.tensor_P, [3.2, -2.0, 1.0, 3.0])


def test_sce_coefficients_of_tiny_deltas_are_not_uniform():
    # squares 9 : 1 however small the deltas are; uniform would be .5, .5.
    delta = torch.tensor([[3e-5], [1e-5]])
    merged = run("sce", torch.zeros(1), delta, select_topk=1.0)
    close(merged.details["coefficients"], [0.9, 0.1])


def test_sce_coefficients_are_uniform_when_nothing_is_kept():
    merged = run("sce", BASE, BASE + DELTA, select_topk=0.0)
    assert merged.details["coefficients"] == [0.5, 0.5]
    assert torch.equal(merged.tensor_P, BASE)


def test_rsaf_by_hand():
    # S = 2, deltas (a, -a): v = a^2, sqrt(v) = a over a = 1, 1, 1, 5 (a zero is kept out).
    # mean 2, centred -1, -1, -1, 3; variance 12/4 = 3; third moment 24/4 = 6; 6 / 3^1.5 = 1.1547.
    # tau = 0.5 exp(-0.5 (1.1547 - 0.995)) = 0.46162; floor(0.46162 * 4) = 1: only a = 5 is kept.
    half = torch.tensor([1.0, 1.0, 0.0, 1.0, 5.0])
    models = torch.stack([2 * half, 0 * half])  # variance is that of (a, -a)
    merged = run("rsaf", torch.zeros(5), models)
    assert merged.details["rate"] == pytest.approx(0.8)
    assert merged.details["skewness"] == pytest.approx(6 / 3**1.5)
    assert merged.details["tau"] == pytest.approx(0.46162, abs=1e-5)
    assert merged.details["kept"] == 1
    assert merged.details["ratio"] == pytest.approx(0.2)
    assert merged.details["coefficients"] == [1.0, 0.0]
    close(merged.tensor_P, [0.0, 0.0, 0.0, 0.0, 10.0])


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({"rule": "energy", "energy": 0.85}, 1),  # v = 1, 1, 1, 25: 25 / 28 = .893 is enough
        ({"rule": "energy", "energy": 0.9}, 2),  # 26 / 28 = .929
        ({"rule": "energy", "energy": 0.95}, 3),  # 27 / 28 = .964
        ({"beta": -4.0}, 3),  # .5 exp(4 * .1597) = .947, floor(3.79)
        ({"beta": 40.0}, 0),  # clipped to .05: floor(.2) = 0
        ({"beta": 40.0, "tau_min": 0.3}, 1),  # floor(1.2)
        ({"tau0": 1.0, "beta": -1.0}, 5),  # tau 1 keeps the position without variance too
    ],
)
def test_rsaf_rules_keep_what_is_worked_out_by_hand(params, kept):
    half = torch.tensor([1.0, 1.0, 0.0, 1.0, 5.0])
    models = torch.stack([2 * half, 0 * half])
    assert run("rsaf", torch.zeros(5), models, **params).details["kept"] == kept


def test_rsaf_variation_rate_scales_with_relative_change():
    # RMS(delta) / RMS(base) = .01 keeps tau0; twice that keeps twice the share.
    base = torch.full((100,), 1.0)
    delta = torch.linspace(1, 2, 100)
    pair = torch.stack([delta, -delta])
    pair = pair / pair.square().mean().sqrt()
    for scale, tau in ((0.01, 0.3), (0.02, 0.6)):
        merged = run("rsaf", base, base + scale * pair, rule="variation_rate", tau0=0.3)
        assert merged.details["tau"] == pytest.approx(tau, rel=1e-3)


@pytest.mark.parametrize("models", [2, 3, 4, 5, 7])
def test_gaussian_skewness_is_what_sampling_finds(models):
    torch.manual_seed(0)
    spread = torch.randn(models, 400_000).var(dim=0, unbiased=False).sqrt()
    assert skewness(spread) == pytest.approx(gaussian_skewness(models), abs=0.02)


@pytest.mark.parametrize("models", [2, 3, 4, 5])
def test_the_table_of_gaussian_skewness_is_the_formula(models):
    freedom = models - 1
    mean = math.sqrt(2) * math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2)
    variance = freedom - mean**2
    assert gaussian_skewness(models) == pytest.approx(
        mean * (1 - 2 * variance) / variance**1.5, abs=6e-4
    )


def test_rsaf_without_beta_equals_sce_bit_for_bit():
    torch.manual_seed(1)
    base, models = torch.randn(500), torch.randn(3, 500)
    left = run("rsaf", base, models, tau0=0.1, beta=0.0)
    right = run("sce", base, models, select_topk=0.1)
    assert torch.equal(left.tensor_P, right.tensor_P)
    assert left.details["kept"] == right.details["kept"] == 50


def test_rsaf_keeps_fewer_where_disagreement_is_concentrated():
    torch.manual_seed(2)
    even = torch.rand(10_000) + 1
    peaked = even**8
    taus = [
        run("rsaf", torch.zeros(10_000), torch.stack([d, -d])).details["tau"]
        for d in (even, peaked)
    ]
    assert taus[0] > 0.5 > taus[1]


def test_rsaf_of_one_model_is_that_model():
    merged = run("rsaf", BASE, (BASE + DELTA)[:1])
    close(merged.tensor_P, (BASE + DELTA)[0])
    assert merged.details["rate"] == 0.0


def test_skewness_of_constants_and_of_two_values_is_zero():
    assert skewness(torch.full((9,), 0.1)) == 0.0
    assert skewness(torch.tensor([1.0, 2.0])) == 0.0
