from __future__ import annotations

import numpy as np
import pytest

from infifusion.data.drawn import as_drawn
from infifusion.data.tokenize import Tokenized

# Tokens: 0 the end of the turn, 1 another special one, 2 "a", 3 "b", 4 "ab", 5 " ".
SIZES, SPECIAL = np.array([5, 3, 1, 1, 2, 1]), np.array([True, True, *[False] * 4])


def text(own: list[int], starts: list[int]) -> Tokenized:
    """A prompt of two tokens, and what follows."""
    ids = np.array([3, 3, *own], np.int32)
    return Tokenized(ids, 2, np.array(starts, np.int32), straddles=False, control=None)


def drawn(one: Tokenized, ids: list[int], *, finished: bool = True) -> Tokenized | None:
    return as_drawn(one, ids, finished=finished, sizes_V=SIZES, special_V=SPECIAL)


CANONICAL = text([4, 2, 0], [0, 2, 3])  # "ab" + "a", the end


def test_the_same_tokens_are_the_same_conversation() -> None:
    assert drawn(CANONICAL, [4, 2, 0]) is CANONICAL


def test_tokens_that_were_drawn_otherwise_keep_their_own_bounds() -> None:
    found = drawn(CANONICAL, [2, 3, 2, 0])
    assert found is not None and found.ids.tolist() == [3, 3, 2, 3, 2, 0]
    assert found.starts.tolist() == [0, 1, 2, 3] and found.first == 2


def test_an_answer_that_was_cut_off_ends_as_its_text_does() -> None:
    found = drawn(CANONICAL, [2, 3, 2], finished=False)
    assert found is not None and found.ids.tolist() == [3, 3, 2, 3, 2, 0]
    assert drawn(CANONICAL, [4, 2], finished=False) is CANONICAL


def test_another_token_that_stops_the_pivot_stays_the_one_that_was_drawn() -> None:
    found = drawn(CANONICAL, [4, 2, 1])
    assert found is not None and found.ids.tolist()[-1] == 1 and found.starts.tolist() == [0, 2, 3]


def test_a_special_token_inside_cannot_be_given_to_others() -> None:
    assert drawn(CANONICAL, [4, 1, 2, 0]) is None


def test_what_is_written_before_the_response_starts_before_it() -> None:
    own = text([5, 4, 2, 0], [-1, 0, 2, 3])
    found = drawn(own, [5, 2, 3, 2, 0])
    assert found is not None and found.starts.tolist() == [-1, 0, 1, 2, 3]


def test_an_end_of_several_tokens_is_one_end() -> None:
    own = text([4, 2, 1, 0], [0, 2, 3, 3])
    found = drawn(own, [2, 3, 2, 1, 0])
    assert found is not None and found.starts.tolist() == [0, 1, 2, 3, 3]


@pytest.mark.parametrize("ids", [[4, 0], [4, 2, 2, 0]])
def test_tokens_that_do_not_spell_the_text_are_left_to_the_tokenizer(ids: list[int]) -> None:
    assert drawn(CANONICAL, ids) is CANONICAL
