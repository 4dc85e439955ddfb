from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from infifusion.fuse.mixture import mix
from infifusion.rows import keep_largest
from infifusion.types import Aligned


def distributions(ids_STK: list, prob_STK: list) -> Aligned:
    """Rows of S sources, of which mixing reads ids and probabilities alone."""
    ids, prob = np.asarray(ids_STK, np.int32), np.asarray(prob_STK, np.float32)
    zeros = np.zeros(ids.shape[:2], np.float32)
    return Aligned(
        ids_STK=ids,
        prob_STK=prob,
        tail_ST=zeros,
        aligned_ST=zeros == 0,
        entropy_ST=zeros,
        top_ST=zeros,
        zscore_STK=None,
        bits_SN=zeros,
        evidence=lambda forgetting: zeros,
        example_T=np.zeros(ids.shape[1], np.int64),
    )


def test_values_of_equal_ids_are_added_and_unused_places_dropped() -> None:
    rows = distributions([[[3, 1, -1]], [[3, -1, -1]]], [[[0.2, 0.1, 9]], [[0.3, 0, 0]]])
    mixed = mix(rows, np.ones((2, 1), np.float32), keep=3)
    assert mixed.ids_TK.tolist() == [[3, 1, -1]] and mixed.zscore_TK is None
    np.testing.assert_allclose(mixed.prob_TK, [[0.5, 0.1, 0]], rtol=1e-6)


def test_the_largest_come_first_and_ties_go_to_the_lower_id() -> None:
    ids, value = keep_largest(
        np.asarray([[5, 2, 9, -1]], np.int32), np.asarray([[0.2, 0.2, 0.5, 0]], np.float32), 2
    )
    assert ids.tolist() == [[9, 2]]
    np.testing.assert_allclose(value, [[0.5, 0.2]], rtol=1e-6)


def test_a_row_shorter_than_asked_for_is_padded() -> None:
    ids, value = keep_largest(np.asarray([[4]], np.int32), np.asarray([[0.5]], np.float32), 3)
    assert ids.tolist() == [[4, -1, -1]] and value.tolist() == [[0.5, 0, 0]]


@settings(deadline=None)  # the first example compiles
@given(
    st.lists(
        st.lists(st.permutations(range(-2, 7)), min_size=3, max_size=3), min_size=1, max_size=6
    )
)
def test_mixing_equals_a_dictionary_per_row(places: list[list[list[int]]]) -> None:
    # Five of nine places of a permutation are ids that stand once in a row; -1 and -2 are unused.
    ids_TSK = np.maximum(np.asarray(places, np.int32)[:, :, :5], -1)
    ids_STK = np.ascontiguousarray(ids_TSK.transpose(1, 0, 2))
    value_STK = np.arange(ids_STK.size, dtype=np.float32).reshape(ids_STK.shape) + 1
    rows = distributions(ids_STK, np.where(ids_STK < 0, 0, value_STK))
    mixed = mix(rows, np.ones(ids_STK.shape[:2], np.float32), keep=15)
    for t in range(len(places)):
        expected: dict[int, float] = {}
        for token, v in zip(ids_STK[:, t].ravel(), value_STK[:, t].ravel(), strict=True):
            if token >= 0:
                expected[int(token)] = expected.get(int(token), 0) + float(v)
        used = mixed.ids_TK[t] >= 0
        pairs = list(zip(mixed.ids_TK[t][used], mixed.prob_TK[t][used], strict=True))
        assert dict(pairs) == expected
        assert pairs == sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
        assert (mixed.prob_TK[t][~used] == 0).all()
