from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
from conftest import TEXTS, byte_level_tokenizer, sentencepiece_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_edit_distance import slow, table
from test_project import beliefs, project, row

from infifusion.align.byte_spans import TokenTable, byte_starts, token_table
from infifusion.align.edit_distance import nearest_tokens
from infifusion.align.min_ed import pair_by_edit_distance, texts_of
from infifusion.align.project import Positions, by_bytes
from infifusion.align.vocabulary import How, VocabularyMap, identity_map, vocabulary_map
from infifusion.data.tokenizers import encode, tokenizer_json

END = b"<end>"


def vocabulary_of(*responses: list[bytes]) -> TokenTable:
    """END and the pieces of some responses."""
    pieces = sorted({piece for response in responses for piece in response})
    return table(END, *pieces, special=(0,))


def positions(own: TokenTable, *responses: list[bytes]) -> Positions:
    """The positions of responses cut into these pieces, each with its end of turn."""
    ids = [[own.bytes_V.index(piece) for piece in response] + [0] for response in responses]
    starts = [np.cumsum([0, *(len(piece) for piece in response)]) for response in responses]
    return Positions(
        np.concatenate(starts).astype(np.int32),
        np.cumsum([0, *(len(one) for one in ids)]).astype(np.int64),
        np.concatenate(ids).astype(np.int32),
    )


def nearest_map(source: TokenTable, pivot: TokenTable) -> VocabularyMap:
    return vocabulary_map(
        source,
        pivot,
        partial(nearest_tokens, pivot),
        roles={0: 0},
        size=len(source),
        how=How.NEAREST,
    )


def paired(
    source: list[list[bytes]], pivot: list[list[bytes]], mapping: VocabularyMap | None = None
) -> list[int]:
    """source_T for responses cut in two ways."""
    theirs, ours = vocabulary_of(*source), vocabulary_of(*pivot)
    return pair_by_edit_distance(
        positions(theirs, *source),
        positions(ours, *pivot),
        source_table=theirs,
        pivot_table=ours,
        mapping=mapping or nearest_map(theirs, ours),
    ).tolist()


def unmapped(size: int) -> VocabularyMap:
    return VocabularyMap(np.full(size, -1, np.int32), np.zeros(size, np.uint8))


def roads(tokens_t: int, tokens_u: int) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Every way through two lists: the moves backwards from the end, and the pairs."""

    def back(i: int, j: int, moves: str, pairs: list[tuple[int, int]]) -> Iterator:
        pairs = [(i, j), *pairs]
        if i == j == 0:
            yield moves, pairs
        # Named so that the alphabet is the order of preference.
        for name, di, dj in (("a both", 1, 1), ("b source", 0, 1), ("c pivot", 1, 0)):
            if i >= di and j >= dj:
                yield from back(i - di, j - dj, moves + name[0], pairs)

    yield from back(tokens_t - 1, tokens_u - 1, "", [])


def slow_pairing(source: list[bytes], pivot: list[bytes], mapping: VocabularyMap) -> list[int]:
    """source_T of one response from all ways through it."""
    theirs, ours = vocabulary_of(source), vocabulary_of(pivot)
    found = [0] + [-1] * len(pivot)
    if not source or not pivot:
        return found
    _, _, pairs = min(
        (sum(slow(pivot[i], source[j]) for i, j in pairs), moves, pairs)
        for moves, pairs in roads(len(pivot), len(source))
    )
    for i, j in pairs:
        alone = sum(i == a for a, _ in pairs) == 1 == sum(j == b for _, b in pairs)
        stands_for = mapping.pivot_V[theirs.bytes_V.index(source[j])]
        if alone and (source[j] == pivot[i] or stands_for == ours.bytes_V.index(pivot[i])):
            found[i + 1] = j + 1
    return found


def test_tokens_in_one_pair_teach_and_those_in_several_do_not() -> None:
    # ab is paired with a and with b (distance 1 each), c with c alone: after ab nothing is carried,
    # after c the source's position 3 is. Before ab both predict from the start.
    assert paired([[b"a", b"b", b"c"]], [[b"ab", b"c"]]) == [0, -1, 3]
    assert paired([[b"ab", b"c"]], [[b"a", b"b", b"c"]]) == [0, -1, -1, 2]


def test_a_pair_of_unlike_texts_teaches_only_where_the_map_says_so() -> None:
    # cats is nearest to cat and "." to "s.": FuseLLM's rule lets both teach, though they are not
    # at the same bytes.
    source, pivot = [[b"cats", b"."]], [[b"cat", b"s."]]
    assert paired(source, pivot) == [0, 1, 2]
    assert paired(source, pivot, unmapped(3)) == [0, -1, -1]
    assert paired([[b"x"]], [[b"x"]], unmapped(2)) == [0, 1]


def test_responses_are_paired_apart() -> None:
    source, pivot = [[b"a"], [], [b"b", b"a"]], [[b"a"], [b"a"], [b"b", b"a"]]
    # Source positions: 0 1 | 2 | 3 4 5; pivot positions: 0 1 | 2 3 | 4 5 6.
    assert paired(source, pivot) == [0, 1, 2, -1, 3, 4, 5]


pieces = st.lists(st.sampled_from([b"a", b"ab", b"b", b" a", b"ba b", b"c"]), max_size=5)


@settings(max_examples=150, deadline=None)
@given(pieces, pieces)
def test_the_pairing_is_the_cheapest_of_all_ways(source: list[bytes], pivot: list[bytes]) -> None:
    mapping = nearest_map(vocabulary_of(source), vocabulary_of(pivot))
    assert paired([source], [pivot], mapping) == slow_pairing(source, pivot, mapping)


@pytest.mark.parametrize(
    "tokenizer", [byte_level_tokenizer(320), sentencepiece_tokenizer(330)], ids=["bytes", "pieces"]
)
def test_the_same_tokenizer_is_the_identity(tokenizer) -> None:
    own = token_table(tokenizer_json(tokenizer))
    ids = encode(tokenizer, TEXTS[:4])
    starts = [byte_starts(own, one, text)[:-1] for one, text in zip(ids, TEXTS, strict=False)]
    # The last token of each text takes the place of the end of the turn.
    here = Positions(
        np.concatenate(starts).astype(np.int32),
        np.cumsum([0, *(len(one) for one in ids)]).astype(np.int64),
        np.concatenate(ids).astype(np.int32),
    )
    same = identity_map(len(own), known=len(own))
    found = pair_by_edit_distance(here, here, source_table=own, pivot_table=own, mapping=same)
    assert len(found) > 100 and found.tolist() == list(range(len(found)))
    again = vocabulary_map(
        own, own, partial(nearest_tokens, own), roles={}, size=len(own), how=How.NEAREST
    )
    ordinary = [i for i, piece in enumerate(own.bytes_V) if piece and not own.special_V[i]]
    assert [own.bytes_V[again.pivot_V[i]] for i in ordinary] == [own.bytes_V[i] for i in ordinary]


def test_a_dummy_prefix_is_no_part_of_the_text() -> None:
    # SentencePiece's "▁Ben" at the start of a text covers the three bytes "Ben"; inside it, four.
    own = table(END, b" Ben", b"Ben", special=(0,))
    here = Positions(np.asarray([0, 3, 7], np.int32), np.asarray([0, 3]), np.asarray([1, 1, 0]))
    found = texts_of(here, own)
    texts = [found.flat[a:b].tobytes() for a, b in zip(found.begin_R, found.end_R, strict=True)]
    assert texts == [b"Ben", b" Ben", b""]


def test_first_positions_that_predict_from_different_bytes_are_not_aligned() -> None:
    own = table(END, b"a", special=(0,))
    # The source's first token straddles prompt and response: its first position starts at byte 1.
    source = Positions(np.asarray([1, 2], np.int32), np.asarray([0, 2]), np.asarray([1, 0]))
    pivot = Positions(np.asarray([0, 1, 2], np.int32), np.asarray([0, 3]), np.asarray([1, 1, 0]))
    found = pair_by_edit_distance(
        source, pivot, source_table=own, pivot_table=own, mapping=identity_map(2, known=2)
    )
    assert found[0] == -1 and found.tolist() == [-1, -1, -1]


def test_a_position_that_is_not_paired_is_empty_and_paired_ones_carry_the_distribution() -> None:
    source, pivot = [[b"a", b"b", b"c"]], [[b"ab", b"c"]]
    theirs, ours = vocabulary_of(*source), vocabulary_of(*pivot)
    mapping = nearest_map(theirs, ours)  # <end> a b c onto <end> ab c: a and b onto ab
    assert mapping.pivot_V.tolist() == [0, 1, 1, 2]
    assert mapping.counts()["nearest"] == 2 and mapping.shares()["nearest"] == 2 / 3
    here, there = positions(theirs, *source), positions(ours, *pivot)
    own = beliefs(
        [[1, 3], [2, 3], [3, 0], [0, 1]],
        [[0.6, 0.2], [0.5, 0.3], [0.9, 0.05], [0.8, 0.1]],
        [0.6, 0.5, 0.9, 0.8],
    )
    pair = partial(pair_by_edit_distance, source_table=theirs, pivot_table=ours, mapping=mapping)
    found = project(here, own, there, mapping, pair=pair, gold_path=False)
    assert found.source_T.tolist() == [0, -1, 3]
    assert row(found, 0) == pytest.approx({1: 0.6, 2: 0.2}, abs=2e-3)
    assert row(found, 1) == {} and found.tail_T[1] == 0
    assert row(found, 2) == pytest.approx({0: 0.8, 1: 0.1}, abs=2e-3)


def test_the_gold_path_asks_for_a_common_first_byte() -> None:
    # cats + "." against cat + "s.": the second positions are paired, predict from bytes 4 and 3,
    # and their tokens end together.
    source, pivot = [[b"cats", b"."]], [[b"cat", b"s."]]
    theirs, ours = vocabulary_of(*source), vocabulary_of(*pivot)
    here, there = positions(theirs, *source), positions(ours, *pivot)
    own = beliefs([[1], [1], [0]], [[0.5]] * 3, [0.3, 0.5, 0.5])
    mapping = unmapped(3)
    mapping.pivot_V[:] = [0, 0, 1]
    pair = partial(
        pair_by_edit_distance,
        source_table=theirs,
        pivot_table=ours,
        mapping=nearest_map(theirs, ours),
    )
    found = project(here, own, there, mapping, pair=pair)
    assert found.source_T.tolist() == [0, 1, 2] and not found.gold_path_T.any()
    # By bytes, a source that begins with the pivot's and ends with it has one.
    split = [[b"a", b"b", b"c"]]
    theirs, ours = vocabulary_of(*split), vocabulary_of([b"ab", b"c"])
    own = beliefs([[1], [2], [3], [0]], [[0.5]] * 4, [0.5] * 4)
    mapping = unmapped(4)
    for pair in (
        by_bytes,
        partial(pair_by_edit_distance, source_table=theirs, pivot_table=ours, mapping=mapping),
    ):
        here, there = positions(theirs, *split), positions(ours, [b"ab", b"c"])
        found = project(here, own, there, mapping, pair=pair)
        assert found.gold_path_T[0] and row(found, 0)[1] == pytest.approx(0.25, abs=2e-3)
