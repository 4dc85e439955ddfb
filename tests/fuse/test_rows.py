from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from infifusion.rows import add_up, keep_largest


def test_values_of_equal_ids_are_added_and_unused_places_dropped() -> None:
    ids, value = add_up(
        np.asarray([[3, -1, 3, 1]], np.int32), np.asarray([[0.2, 9.0, 0.3, 0.1]], np.float32)
    )
    assert ids.tolist() == [[1, 3, -1, -1]]
    np.testing.assert_allclose(value, [[0.1, 0.5, 0, 0]], rtol=1e-6)


def test_the_largest_come_first_and_ties_go_to_the_lower_id() -> None:
    ids, value = keep_largest(
        np.asarray([[5, 2, 9, -1]], np.int32), np.asarray([[0.2, 0.2, 0.5, 0]], np.float32), 2
    )
    assert ids.tolist() == [[9, 2]]
    np.testing.assert_allclose(value, [[0.5, 0.2]], rtol=1e-6)


def test_a_row_shorter_than_asked_for_is_padded() -> None:
    ids, value = keep_largest(np.asarray([[4]], np.int32), np.asarray([[0.5]], np.float32), 3)
    assert ids.tolist() == [[4, -1, -1]] and value.tolist() == [[0.5, 0, 0]]


@given(st.lists(st.lists(st.integers(-1, 6), min_size=5, max_size=5), min_size=1, max_size=6))
def test_add_up_equals_a_dictionary_per_row(rows: list[list[int]]) -> None:
    ids = np.asarray(rows, np.int32)
    value = np.arange(ids.size, dtype=np.float32).reshape(ids.shape) + 1
    found_ids, found = add_up(ids, value)
    for t, row in enumerate(rows):
        expected: dict[int, float] = {}
        for token, v in zip(row, value[t].tolist(), strict=True):
            if token >= 0:
                expected[token] = expected.get(token, 0) + v
        used = found_ids[t] >= 0
        assert (
            dict(zip(found_ids[t][used].tolist(), found[t][used].tolist(), strict=False))
            == expected
        )
        assert (found[t][~used] == 0).all()
