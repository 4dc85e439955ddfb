"""Orthogonal matching pursuit. Axes: B vectors, N anchors, D width, K anchors taken."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from infifusion.merge.blocks.pursuit import means_of, mix, pursue, sums_of_anchors


def anchors(count, width, seed=0):
    drawn = np.random.default_rng(seed).standard_normal((count, width))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def vectors(count, width, seed=1):
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def by_the_book(vector, anchor_ND, count):
    """One anchor a step, all of them looked through, weights by least squares: float64."""
    left, taken, weights = vector.astype(np.float64), [], np.zeros(0)
    for _ in range(count):
        alike = np.abs(anchor_ND.astype(np.float64) @ left)
        alike[taken] = -1
        taken.append(int(alike.argmax()))
        basis = anchor_ND[taken].astype(np.float64).T
        weights, *_ = np.linalg.lstsq(basis, vector.astype(np.float64), rcond=None)
        left = vector - basis @ weights
    return taken, weights, np.linalg.norm(left) / np.linalg.norm(vector)


@pytest.mark.parametrize("workers", [1, 2])
def test_with_a_round_for_each_it_is_the_pursuit_of_the_book(workers):
    anchor_ND, vector_BD = anchors(60, 24), vectors(40, 24)
    with ThreadPoolExecutor(workers) as pool:
        found = pursue(vector_BD, anchor_ND, 6, rounds=6, candidates=60, parallel=pool.map)
    for b, vector in enumerate(vector_BD):
        taken, weights, left = by_the_book(vector, anchor_ND, 6)
        assert found.anchor_BK[b].tolist() == taken
        np.testing.assert_allclose(found.weight_BK[b], weights, rtol=1e-3, atol=1e-4)
        assert found.left_B[b] == pytest.approx(left, rel=1e-4)


def test_fewer_rounds_lose_little():
    anchor_ND, vector_BD = anchors(500, 64), vectors(64, 64)
    found = pursue(vector_BD, anchor_ND, 16)
    best = [by_the_book(vector, anchor_ND, 16)[2] for vector in vector_BD]
    assert found.left_B.mean() <= 1.03 * np.mean(best)


def test_a_sum_of_a_few_anchors_is_found_again():
    anchor_ND = anchors(300, 64)
    drawn = np.random.default_rng(3)
    row_BK = np.array([drawn.choice(300, 3, replace=False) for _ in range(50)])
    weight_BK = (drawn.uniform(1, 2, (50, 3)) * drawn.choice([-1, 1], (50, 3))).astype(np.float32)
    vector_BD = np.zeros((50, 64), np.float32)
    mix(anchor_ND, row_BK, weight_BK, vector_BD)
    found = pursue(vector_BD, anchor_ND, 8)
    assert found.left_B.max() < 1e-4
    again = np.zeros_like(vector_BD)
    mix(anchor_ND, found.anchor_BK, found.weight_BK, again)
    np.testing.assert_allclose(again, vector_BD, atol=1e-4)


def test_what_is_left_is_what_the_sum_lacks():
    anchor_ND, vector_BD = anchors(100, 32), vectors(20, 32)
    found = pursue(vector_BD, anchor_ND, 10)
    made = np.zeros_like(vector_BD)
    mix(anchor_ND, found.anchor_BK, found.weight_BK, made)
    lacks = np.linalg.norm(vector_BD - made, axis=1) / np.linalg.norm(vector_BD, axis=1)
    np.testing.assert_allclose(found.left_B, lacks, rtol=1e-3)
    assert all(len(set(row)) == 10 for row in found.anchor_BK.tolist())


def test_equal_anchors_few_anchors_and_nothing_to_find():
    """The same anchor thrice counts once; zeros need none; more than there are is all there are."""
    anchor_ND = np.repeat(anchors(3, 16), 3, axis=0)
    vector_BD = np.concatenate([vectors(4, 16), np.zeros((1, 16), np.float32)])
    found = pursue(vector_BD, anchor_ND, 9, rounds=1, candidates=9)
    assert ((found.weight_BK != 0).sum(axis=1) <= 3).all()
    assert np.isfinite(found.weight_BK).all() and not found.weight_BK[4].any()
    book = [by_the_book(v, anchor_ND[::3], 3)[2] for v in vector_BD[:4]]
    np.testing.assert_allclose(found.left_B[:4], book, rtol=1e-3)
    wide = pursue(vectors(2, 4), anchors(50, 4), 64)
    assert wide.anchor_BK.shape == (2, 4) and wide.left_B.max() < 0.5


def test_weights_are_those_of_the_anchors_as_they_are():
    """Anchors of any length; one of no length is not used; an unknown vector has no weights."""
    anchor_ND = anchors(40, 16) * np.linspace(0.1, 5, 40, dtype=np.float32)[:, None]
    anchor_ND[7] = 0
    vector_BD = vectors(30, 16)
    vector_BD[5] = 0
    found = sums_of_anchors(lambda part: vector_BD[part], 30, anchor_ND, 16)
    made = np.zeros_like(vector_BD)
    mix(anchor_ND, found.row_MK, found.weight_MK, made)
    lacks = np.linalg.norm(vector_BD - made, axis=1)[np.arange(30) != 5]
    lengths = np.linalg.norm(vector_BD, axis=1)[np.arange(30) != 5]
    assert found.left == pytest.approx(float((lacks / lengths).mean()), rel=1e-3, abs=1e-5)
    assert not (found.row_MK[found.weight_MK != 0] == 7).any()
    assert not found.weight_MK[5].any()


def test_means_are_sums_of_equal_weights():
    found = means_of([[3, 4], [], [5, 5, 6]])
    row_ND = np.arange(14, dtype=np.float32).reshape(7, 2)
    made = np.ones((3, 2), np.float32)
    mix(row_ND, found.row_MK, found.weight_MK, made)
    np.testing.assert_allclose(made, [[7, 8], [0, 0], [32 / 3, 35 / 3]], rtol=1e-6)
