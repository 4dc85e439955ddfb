"""The exact largest values of tensors of any size. Axes: R rows, P positions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infifusion.merge.blocks import select
from infifusion.merge.blocks.blocks import Blocks, Raw
from infifusion.merge.blocks.select import largest


def chosen(values_RP: np.ndarray, counts: list[list[int]], *, step: int) -> np.ndarray:
    """Masks of the largest, by a tensor in blocks of `step`: [R, M, P]."""
    rows = [np.ascontiguousarray(row) for row in values_RP]
    blocks = Blocks(None, [Raw(row, "F32") for row in rows], rows[0].shape, length=step)
    borders = largest(blocks, lambda block: block.model_SP, counts)
    return np.array(
        [
            [
                np.concatenate(
                    [
                        border.mask(block, block.model_SP[r])
                        for block in map(blocks.block, range(blocks.count))
                    ]
                )
                for border in row
            ]
            for r, row in enumerate(borders)
        ]
    )


def expected(values_P: np.ndarray, count: int) -> np.ndarray:
    """By a stable sort: of equal magnitudes the earlier."""
    order = np.argsort(-np.abs(values_P), kind="stable")
    mask_P = np.zeros(len(values_P), bool)
    mask_P[order[:count]] = True
    return mask_P


@pytest.fixture(params=["sorted whole", "by histogram", "by two histograms"])
def road(request, monkeypatch):
    """Small tensors are sorted; larger ones counted; very full bins counted twice."""
    if request.param != "sorted whole":
        monkeypatch.setattr(select, "LEADING", 1 << 16)
        monkeypatch.setattr(
            select,
            "largest",
            lambda b, s, c: select.borders(b, s, select.histogram(b, s, len(c)), c),
        )
        monkeypatch.setitem(globals(), "largest", select.largest)
    if request.param == "by two histograms":
        monkeypatch.setattr(select, "GATHERED", 0)


@pytest.mark.parametrize("kind", ["gaussian", "few values", "constant", "zeros", "tiny"])
@pytest.mark.parametrize("step", [7, 64, 100_000])
def test_exactly_the_largest_are_kept_ties_by_position(road, kind, step):
    rng = np.random.default_rng(0)
    size = 500
    values = {
        "gaussian": rng.standard_normal((2, size)),
        "few values": rng.integers(-3, 4, (2, size)) / 8,
        "constant": np.full((2, size), 0.1),
        "zeros": np.where(rng.random((2, size)) < 0.7, 0, rng.standard_normal((2, size))),
        "tiny": rng.standard_normal((2, size)) * 1e-38,
    }[kind].astype(np.float32)
    counts = [[0, 1, 3, 250, 499, 500, 900], [2, 499, 7, 7, 100, 0, 1]]
    found = chosen(values, counts, step=step)
    for r, row in enumerate(counts):
        for m, count in enumerate(row):
            np.testing.assert_array_equal(found[r, m], expected(values[r], count))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40),
    st.integers(0, 45),
    st.integers(1, 9),
)
def test_any_values_and_any_blocks(values, count, step):
    values_P = np.array(values, np.float32)
    found = chosen(values_P[None], [[count]], step=step)[0, 0]
    np.testing.assert_array_equal(found, expected(values_P, count))


def test_a_tensor_of_many_blocks_keeps_the_count_exactly():
    rng = np.random.default_rng(1)
    values = (rng.standard_normal(400_000) * 8).round().astype(np.float32) / 8
    found = chosen(values[None], [[12_345, 200_000]], step=65_536)
    assert found.sum(axis=-1).tolist() == [[12_345, 200_000]]
    np.testing.assert_array_equal(found[0, 0], expected(values, 12_345))


SIZE = 200_000


@pytest.mark.parametrize("kind", ["even", "few values", "mostly zeros", "the sample misleads"])
@pytest.mark.parametrize("share", [0.00001, 0.1, 0.5, 0.99999])
def test_large_tensors_by_a_sample_or_where_that_misleads_by_histograms(kind, share):
    """The sample is the beginning of each of 128 equal parts of the tensor."""
    rng = np.random.default_rng(2)
    values = rng.standard_normal(SIZE)
    if kind == "few values":
        values = (values * 4).round() / 4
    if kind == "mostly zeros":
        values *= rng.random(SIZE) < 0.05
    if kind == "the sample misleads":
        values[np.arange(SIZE) % (SIZE // 128) < 256] *= 1e-6
    values_P = values.astype(np.float32)
    count = int(share * SIZE)
    found = chosen(values_P[None], [[count]], step=30_000)[0, 0]
    np.testing.assert_array_equal(found, expected(values_P, count))


def test_the_sample_finds_most_borders_by_itself(monkeypatch):
    def histogram(*_):
        raise AssertionError("histograms")

    monkeypatch.setattr(select, "histogram", histogram)
    rng = np.random.default_rng(3)
    values_P = rng.standard_normal(SIZE).astype(np.float32)
    for share in (0.01, 0.1, 0.5, 0.9):
        found = chosen(values_P[None], [[int(share * SIZE)]], step=65_536)[0, 0]
        assert found.sum() == int(share * SIZE)
