from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from infifusion.align.byte_spans import TokenTable
from infifusion.align.edit_distance import FAR, clear, distance, mark, nearest_tokens


def table(*pieces: bytes, special: tuple[int, ...] = ()) -> TokenTable:
    flags = np.zeros((2, len(pieces)), dtype=bool)
    flags[0, list(special)] = True
    return TokenTable(list(pieces), flags[0], flags[0].copy(), flags[1], "byte_level")


def apart(one: bytes, other: bytes, limit: int = int(FAR)) -> int:
    """`distance` of two byte strings."""
    flat_one, flat_other = (np.frombuffer(x + b"\0", np.uint8) for x in (one, other))
    pattern = np.zeros(256, np.uint64)
    mark(pattern, flat_one, 0, len(one))
    found = distance(pattern, flat_one, 0, len(one), flat_other, 0, len(other), limit)
    clear(pattern, flat_one, 0, len(one))
    assert not pattern.any()
    return found


def slow(one: bytes, other: bytes) -> int:
    """Levenshtein's recursion over prefixes, as in a textbook."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        before, row = row, [i]
        for j, b in enumerate(other, start=1):
            row.append(min(before[j - 1] + (a != b), before[j] + 1, row[j - 1] + 1))
    return row[-1]


def test_distances_by_hand() -> None:
    # kitten -> sitten -> sittin -> sitting.
    assert apart(b"kitten", b"sitting") == 3
    assert apart(b"", b"abc") == apart(b"abc", b"") == 3
    assert apart(b"same", b"same") == apart(b"", b"") == 0
    assert apart("é".encode(), b"e") == 2  # two bytes for one: a replacement and a deletion


few = st.lists(st.sampled_from(b"ab c\xff"), max_size=12).map(bytes)
long = st.lists(st.sampled_from(b"abc"), min_size=60, max_size=70).map(bytes)


@given(few, few)
def test_the_distance_equals_a_slow_one(one: bytes, other: bytes) -> None:
    assert apart(one, other) == apart(other, one) == slow(one, other)


@settings(max_examples=30, deadline=None)
@given(long, st.one_of(long, few))
def test_long_strings_and_those_of_a_whole_word_too(one: bytes, other: bytes) -> None:
    assert apart(one, other) == apart(other, one) == slow(one, other)


@given(few, few, st.integers(0, 12))
def test_a_limit_only_spares_work_above_it(one: bytes, other: bytes, limit: int) -> None:
    found, expected = apart(one, other, limit), slow(one, other)
    assert found == expected if expected <= limit else found > limit


@settings(max_examples=50, deadline=None)
@given(st.lists(few, max_size=25), st.lists(few, max_size=6))
def test_the_nearest_token_equals_a_slow_search(pieces: list[bytes], wanted: list[bytes]) -> None:
    own = table(*pieces, b"<end>", special=(len(pieces),))
    expected = [
        min(
            (i for i, piece in enumerate(pieces) if piece),
            key=lambda i: (slow(pieces[i], data), i),
            default=-1,
        )
        for data in wanted
    ]
    assert nearest_tokens(own, wanted) == expected


def test_special_and_empty_tokens_are_never_the_nearest() -> None:
    own = table(b"<end>", b"", b"abcdefgh", special=(0,))
    assert nearest_tokens(own, [b"<end", b"x"]) == [2, 2]
    assert nearest_tokens(table(b"<end>", special=(0,)), [b"<end"]) == [-1]


def test_of_equally_near_tokens_the_lowest_id_is_taken_whatever_its_length() -> None:
    # Two insertions against two replacements; those of the same length are looked at first.
    assert nearest_tokens(table(b"abcd", b"xy"), [b"ab"]) == [0]
    assert nearest_tokens(table(b"xy", b"abcd"), [b"ab"]) == [0]
