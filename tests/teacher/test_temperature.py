from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_model
from scipy.optimize import minimize_scalar
from test_forward import DATA, gemma

from infifusion.errors import NumericsError
from infifusion.teacher.forward import Teacher, believe, make_teacher
from infifusion.teacher.temperature import GRID, fit_temperature, gold_nats, lowest
from infifusion.types import Rendered

NAMES = [f"example-{n}" for n in range(20)]


def teacher_of(model, **changes: object) -> Teacher:
    teacher = make_teacher(model.eval(), top_k=4, batch_tokens=60, head_rows=7)
    return replace(teacher, **changes)


def sure_model(times: float = 1.0):
    """An untied model that is far from uniform; its logits are `times` those of sure_model()."""
    model = tiny_model("qwen2", 53, seed=3)
    model.lm_head.weight.data.mul_(40 * times)
    return model.eval()


@torch.no_grad()
def own_text(model, examples: int, length: int) -> Rendered:
    """What the model says itself, token by token by its own probabilities: it is calibrated on
    that but for chance. The first token is the prompt."""
    generator = torch.Generator().manual_seed(0)
    ids_NL = torch.arange(examples)[:, None] + 1
    while ids_NL.shape[1] < length:
        prob_NV = model(ids_NL).logits[:, -1].softmax(dim=1)
        ids_NL = torch.cat([ids_NL, prob_NV.multinomial(1, generator=generator)], dim=1)
    rows = length - 1
    return Rendered(
        ids_L=ids_NL.flatten().numpy().astype(np.int32),
        offset_N1=np.arange(examples + 1) * length,
        first_N=np.ones(examples, np.int32),
        start_R=np.tile(np.arange(rows, dtype=np.int32), examples),
        row_N1=np.arange(examples + 1) * rows,
    )


@pytest.fixture(scope="module")
def text() -> Rendered:
    return own_text(sure_model(), 20, 21)


@torch.no_grad()
def mean_nats(model, text: Rendered, temperature: float) -> float:
    """The slow reference: float64, example by example."""
    total = 0.0
    for begin, end in zip(text.offset_N1[:-1], text.offset_N1[1:], strict=True):
        ids = torch.from_numpy(text.ids_L[begin:end]).long()
        log_p = (model(ids[None]).logits[0, :-1].double() / temperature).log_softmax(dim=1)
        total -= float(log_p.gather(1, ids[1:, None]).sum())
    return total / len(text.start_R)


def test_logits_four_times_as_large_get_a_temperature_four_times_as_high(text: Rendered) -> None:
    once = fit_temperature(teacher_of(sure_model()), text, names=NAMES)
    four = fit_temperature(teacher_of(sure_model(4)), text, names=NAMES)
    assert four.temperature == pytest.approx(4 * once.temperature, rel=0.02)
    assert 0.8 < once.temperature < 1.25 and not once.at_the_end  # its own text
    assert four.nats == pytest.approx(once.nats, rel=1e-3)
    assert four.nats < four.nats_at_1 and once.positions == 400


@pytest.mark.parametrize("times", [0.45, 1.0, 2.7])
def test_the_fit_is_the_minimum_of_the_float64_cross_entropy(text: Rendered, times: float) -> None:
    model = sure_model(times)
    found = fit_temperature(teacher_of(model), text, names=NAMES)
    best = minimize_scalar(
        lambda log_t: mean_nats(model, text, float(np.exp(log_t))),
        bounds=(-1.4, 2),
        method="bounded",
    )
    assert found.temperature == pytest.approx(float(np.exp(best.x)), rel=0.005)
    assert found.nats == pytest.approx(float(best.fun), rel=1e-4)
    assert found.nats_at_1 == pytest.approx(mean_nats(model, text, 1.0), rel=1e-5)


def test_a_text_that_nothing_predicts_ends_at_the_highest_temperature(text: Rendered) -> None:
    at_random = replace(text, ids_L=np.random.default_rng(0).integers(0, 53, 420).astype(np.int32))
    found = fit_temperature(teacher_of(sure_model(9)), at_random, names=NAMES)
    assert found.temperature == GRID[-1] == 8 and found.at_the_end


def test_the_lowest_point_of_a_parabola_in_log_t_is_found_between_the_grids_points() -> None:
    grid = np.asarray([1.0, 2.0, 4.0, 8.0])
    # (log2 T - 1.3)^2 + 5 has its minimum 5 at T = 2^1.3.
    found = lowest(grid, (np.log2(grid) - 1.3) ** 2 + 5)
    assert found == pytest.approx((2**1.3, 5.0), abs=1e-12)
    assert lowest(grid, np.asarray([1.0, 2, 3, 4])) == (1.0, 1.0)
    assert lowest(grid, np.asarray([2.0, 2, 2, 2.0])) == (1.0, 2.0)


def test_nats_of_gold_tokens_are_those_of_a_log_softmax() -> None:
    logits = 30 * torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    gold = torch.arange(6)
    temperatures = np.asarray([0.25, 1.0, 3.0])
    expected = [
        -(logits.double() / t).log_softmax(1).gather(1, gold[:, None])[:, 0].numpy()
        for t in temperatures
    ]
    np.testing.assert_allclose(gold_nats(logits, gold, temperatures), expected, rtol=1e-5)


@pytest.mark.parametrize("make", [sure_model, gemma])
def test_beliefs_at_a_temperature_are_those_of_softmax_of_logits_over_it(make) -> None:
    model = make()  # gemma caps its logits, and the temperature comes after the cap
    beliefs = believe(teacher_of(model, temperature=2.5), DATA, 0, 4, names=NAMES)
    row = 0
    for n in range(4):
        ids = torch.from_numpy(DATA.ids_L[DATA.offset_N1[n] : DATA.offset_N1[n + 1]]).long()
        with torch.no_grad():
            logits = model(ids[None]).logits[0].double() / 2.5
        for place in range(int(DATA.first_N[n]), len(ids)):
            own = logits[place - 1]
            log_p = own.log_softmax(0)
            assert beliefs.logprob_UK[row] == pytest.approx(log_p.topk(4).values.numpy(), abs=1e-2)
            assert beliefs.gold_U[row] == pytest.approx(float(log_p[ids[place]]), abs=1e-4)
            entropy = float(-(log_p.exp() * log_p).sum())
            assert beliefs.entropy_U[row] == pytest.approx(entropy, abs=1e-4)
            assert beliefs.lse_U[row] == pytest.approx(float(own.logsumexp(0)), abs=1e-4)
            assert beliefs.mean_U[row] == pytest.approx(float(own.mean()), abs=1e-4)
            assert beliefs.std_U[row] == pytest.approx(float(own.std(correction=0)), abs=1e-4)
            row += 1
    assert row == len(DATA.start_R)


def test_a_fit_names_the_example_whose_logits_are_nan() -> None:
    model = sure_model()
    bad = int(DATA.ids_L[DATA.offset_N1[2] + 1])
    model.get_input_embeddings().weight.data[bad] = torch.nan
    with pytest.raises(NumericsError, match="example-"):
        fit_temperature(teacher_of(model), DATA, names=NAMES)


def test_a_fit_starts_from_the_models_own_logits(text: Rendered) -> None:
    with pytest.raises(ValueError, match=r"expected a teacher at temperature 1, found 2\.0"):
        fit_temperature(teacher_of(sure_model(), temperature=2.0), text, names=NAMES)
