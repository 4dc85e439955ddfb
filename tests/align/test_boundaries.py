from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from infifusion.align.boundaries import end_keys, example_of, keys, match
from infifusion.align.coverage import coverage


def flat(*examples: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """start bytes of some examples end to end, and their row offsets."""
    lengths = [len(example) for example in examples]
    starts = np.asarray([start for example in examples for start in example], dtype=np.int32)
    return starts, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def test_a_position_is_aligned_with_the_one_that_starts_at_the_same_byte() -> None:
    pivot, source = flat([0, 3, 5], [0, 2]), flat([0, 5, 7], [0, 1, 2])
    # Example 0: bytes 0 and 5 are shared, 3 is not. Example 1: 0 and 2 are, at source rows 3, 5.
    assert match(keys(*pivot), keys(*source)).tolist() == [0, -1, 1, 3, 5]


def test_the_same_tokenizer_is_the_identity() -> None:
    start, row = flat([0, 2, 9], [0, 4], [0])
    assert match(keys(start, row), keys(start, row)).tolist() == list(range(6))


def test_a_token_ends_where_the_next_one_starts_and_the_last_one_past_the_response() -> None:
    start, row = flat([0, 2, 9], [0, 4])
    ends = end_keys(start, row) - keys(start, row)
    assert ends.tolist() == [2, 7, 1, 4, 1]


def test_example_of_repeats_the_number_of_each_example() -> None:
    assert example_of(np.asarray([0, 2, 2, 5])).tolist() == [0, 0, 2, 2, 2]


def test_an_empty_source_aligns_nothing() -> None:
    start, row = flat([0, 1])
    assert match(keys(start, row), np.zeros(0, dtype=np.int64)).tolist() == [-1, -1]


cuts = st.lists(st.sets(st.integers(1, 30), max_size=12), min_size=1, max_size=5)


@given(cuts, st.data())
def test_match_equals_a_slow_search(pivot_cuts: list[set[int]], data: st.DataObject) -> None:
    source_cuts = [data.draw(st.sets(st.integers(1, 30), max_size=12)) for _ in pivot_cuts]
    pivot_lists = [[0, *sorted(c)] for c in pivot_cuts]
    source_lists = [[0, *sorted(c)] for c in source_cuts]
    found = match(keys(*flat(*pivot_lists)), keys(*flat(*source_lists)))
    expected, before = [], 0
    for pivot, source in zip(pivot_lists, source_lists, strict=True):
        expected += [before + source.index(b) if b in source else -1 for b in pivot]
        before += len(source)
    assert found.tolist() == expected


def test_coverage_counts_and_ranks_the_unaligned_tokens() -> None:
    source_T = np.asarray([0, -1, -1, 3, -1])
    gold_T = np.asarray([7, 8, 8, 8, 9])
    found = coverage(source_T, gold_T, worst=1)
    assert (found.positions, found.aligned, found.share) == (5, 2, 0.4)
    assert found.worst == [(8, 2, 3)]
