from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infifusion.align.boundaries import Positions
from infifusion.align.spans import advantages, common_spans, mixed, token_advantages


def cut(sizes_N: list[list[int]], *, lead: int = 0) -> Positions:
    """Texts cut into tokens of these sizes, each followed by the end of its turn."""
    starts, rows = [], [0]
    for sizes in sizes_N:
        start = np.concatenate([[0], np.cumsum(sizes)]) - lead
        starts.append(start)
        rows.append(rows[-1] + len(start))
    start_R = np.concatenate(starts).astype(np.int32)
    return Positions(start_R, np.array(rows), np.zeros(len(start_R), np.int32))


OPEN = np.ones((1, 1), bool)


def test_spans_are_the_shortest_that_both_cut_alike() -> None:
    pivot, source = cut([[2, 3, 1, 4]]), cut([[5, 5]])  # pivot |ab|cde|f|ghij|, source |abcde|...|
    spans = common_spans(pivot, [source], OPEN)
    assert spans.span_T.tolist() == [0, 0, 1, 1, 2] and spans.first_J.tolist() == [0, 2, 4]
    # By hand: -1 - 2 of the pivot against -4 of the source, and so on; the end of the turn alone.
    own_T, gold_U = np.array([-1.0, -2, -3, -4, -0.5]), np.array([-4.0, -5, -0.25])
    found_T, spoken_T = token_advantages(pivot, own_T, [(source, gold_U)], OPEN, np.ones((1, 5)))
    assert found_T.tolist() == [-0.5, -0.5, 1.0, 1.0, 0.25] and spoken_T.all()


def test_tokens_before_the_first_common_boundary_have_no_advantage() -> None:
    # The pivot's first token begins two bytes before the response and reaches into it.
    pivot, source = cut([[4, 2, 2]], lead=2), cut([[2, 2, 2]])
    spans = common_spans(pivot, [source], OPEN)
    assert spans.span_T.tolist() == [-1, 0, 1, 2]
    sources = [(source, np.full(4, -1.0))]
    found_T, spoken_T = token_advantages(pivot, np.full(4, -2.0), sources, OPEN, np.ones((1, 4)))
    assert found_T.tolist() == [0, 1, 1, 1] and spoken_T.tolist() == [False, True, True, True]


def test_a_source_that_may_not_speak_cuts_nothing_and_says_nothing() -> None:
    pivot, fine, coarse = cut([[1, 1], [1, 1]]), cut([[1, 1], [1, 1]]), cut([[2], [2]])
    open_SN = np.array([[True, True], [False, True]])
    spans = common_spans(pivot, [fine, coarse], open_SN)
    assert spans.span_T.tolist() == [0, 1, 2, 3, 3, 4]
    weight_ST = np.array([[1, 1, 1, 0.5, 0.5, 0.5], [0, 0, 0, 0.5, 0.5, 0.5]])
    sources = [(fine, np.full(6, -1.0)), (coarse, np.full(4, -2.0))]
    found_T, _ = token_advantages(pivot, np.full(6, -1.5), sources, open_SN, weight_ST)
    # First text: -1 + 1.5. Second: both give e^-2 to its two bytes, the pivot e^-3, in two tokens;
    # to its end e^-1 and e^-2, of which log((e^-1 + e^-2) / 2) is the mean.
    end = np.log((np.exp(-1) + np.exp(-2)) / 2) + 1.5
    np.testing.assert_allclose(found_T, [0.5, 0.5, 0.5, 0.5, 0.5, end], rtol=1e-6)


@st.composite
def splits(draw: st.DrawFn) -> tuple[list[int], list[int], list[int]]:
    """Common spans, and two ways to cut them into tokens."""
    common = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    sides = []
    for _ in range(2):
        sizes: list[int] = []
        for size in common:
            left = size
            while left:
                one = draw(st.integers(1, left))
                sizes.append(one)
                left -= one
        sides.append(sizes)
    return common, sides[0], sides[1]


@given(splits(), st.integers(0, 2**31))
def test_the_advantage_of_a_span_does_not_depend_on_how_either_side_cuts_it(made, seed) -> None:
    common, first, second = made
    rng = np.random.default_rng(seed)
    own_of, other_of = rng.normal(-2, 1, len(common) + 1), rng.normal(-2, 1, len(common) + 1)

    edges = [0, *np.cumsum(common).tolist()]  # that every way to cut has

    def shared_out(values: np.ndarray, start_R: np.ndarray) -> np.ndarray:
        """Each span's log-probability, over its tokens in parts of any size."""
        place_R = np.searchsorted(edges, start_R, side="right") - 1
        part_R = rng.normal(size=len(start_R))
        lacking = (values - np.bincount(place_R, part_R)) / np.bincount(place_R)
        return part_R + lacking[place_R]

    def by_span(pivot_sizes: list[int], source_sizes: list[int]) -> np.ndarray:
        pivot, source = cut([pivot_sizes]), cut([source_sizes])
        own_T = shared_out(own_of, pivot.start_R)
        gold_U = shared_out(other_of, source.start_R)
        weight_ST = np.ones((1, len(own_T)))
        found_T, _ = token_advantages(pivot, own_T, [(source, gold_U)], OPEN, weight_ST)
        places = np.searchsorted(edges, pivot.start_R, side="right") - 1
        return np.bincount(places, weights=found_T, minlength=len(edges))

    expected = other_of - own_of
    for sides in ((first, second), (second, first), (first, first), (common, second)):
        np.testing.assert_allclose(by_span(*sides), expected, atol=1e-4)


def test_the_pivot_as_its_own_source_has_no_advantage() -> None:
    here, own_T = cut([[1, 3, 2]]), np.array([-0.3, -2.0, -1.0, -0.1])
    found_T, _ = token_advantages(here, own_T, [(here, own_T)], OPEN, np.ones((1, 4)))
    assert (found_T == 0).all()


def test_extrapolation_goes_beyond_the_sources_by_as_much_as_asked() -> None:
    fused, own, reference = np.array([-1.0]), np.array([-2.0]), np.array([-4.0])
    # 1.5 (-1 + 4) - 4 + 2 = 2.5; at 1 the reference drops out: -1 + 2 = 1.
    assert advantages(fused, own, reference, extrapolate=1.5) == pytest.approx([2.5])
    assert advantages(fused, own, reference, extrapolate=1.0) == advantages(fused, own) == [1.0]


def test_nobody_who_speaks_gives_no_advantage() -> None:
    with np.errstate(all="raise"):
        none_J = mixed(np.array([[-1.0, -1.0]]), np.array([[0.0, 1.0]]))
    assert none_J.tolist() == [-np.inf, -1.0]
    assert advantages(none_J, np.array([-2.0, -2.0])).tolist() == [0, 1]
