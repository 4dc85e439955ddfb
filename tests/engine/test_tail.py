"""The entropy behind a top: bounds that hold, an estimate between them, limits by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infifusion.engine.tail import entropies


def entropy(prob: np.ndarray) -> float:
    kept = prob[prob > 0]
    return float(-(kept * np.log(kept)).sum())


def top(prob: np.ndarray, kept: int) -> np.ndarray:
    return np.log(np.sort(prob)[::-1][None, :kept])


@given(st.integers(0, 10_000), st.sampled_from([1, 5, 20]), st.floats(0.1, 6))
def test_the_entropy_lies_between_the_bounds_and_so_does_the_estimate(
    seed: int, kept: int, scale: float
) -> None:
    logits = np.random.default_rng(seed).normal(scale=scale, size=200)
    prob = np.exp(logits) / np.exp(logits).sum()
    estimate, least, most = entropies(top(prob, kept), 200)
    assert least[0] - 1e-5 <= entropy(prob) <= most[0] + 1e-5
    assert least[0] <= estimate[0] <= most[0]


def test_an_even_distribution_is_known_exactly() -> None:
    # Ten of 100 at 1/100 each: the rest, 0.9, must be 90 entries of 1/100.
    for found in entropies(np.full((1, 10), math.log(0.01)), 100):
        assert found[0] == pytest.approx(math.log(100), abs=1e-4)


def test_a_power_law_is_found_exactly() -> None:
    weight = np.arange(1, 1001, dtype=float) ** -1.3
    prob = weight / weight.sum()
    estimate, _, _ = entropies(top(prob, 20), 1000)
    assert estimate[0] == pytest.approx(entropy(prob), abs=2e-4)


def test_bounds_by_hand() -> None:
    # Tops 0.5 and 0.2, V = 5: 0.3 is left for three entries of at most 0.2.
    _, least, most = entropies(np.log([[0.5, 0.2]]), 5)
    known = -0.5 * math.log(0.5) - 0.2 * math.log(0.2)
    assert least[0] == pytest.approx(known - 0.2 * math.log(0.2) - 0.1 * math.log(0.1), abs=1e-6)
    assert most[0] == pytest.approx(known - 0.3 * math.log(0.1), abs=1e-6)


def test_a_certain_distribution_and_a_whole_one_have_no_rest() -> None:
    for found in entropies(np.array([[0.0, -50.0]]), 1000):
        assert found[0] == pytest.approx(0, abs=1e-6)
    for found in entropies(np.log([[0.7, 0.3]]), 2):
        assert found[0] == pytest.approx(entropy(np.array([0.7, 0.3])), abs=1e-6)
