from __future__ import annotations

from functools import partial

import numpy as np
from conftest import byte_level_tokenizer, sentencepiece_tokenizer

from infifusion.align.byte_spans import TokenTable, token_table
from infifusion.align.first_token import first_tokens
from infifusion.align.vocabulary import How, identity_map, vocabulary_map
from infifusion.data.tokenizers import encode, tokenizer_json

PIVOT, SOURCE = byte_level_tokenizer(320), sentencepiece_tokenizer(330)
PIVOT_TABLE, SOURCE_TABLE = (token_table(tokenizer_json(t)) for t in (PIVOT, SOURCE))


def table(*pieces: bytes, special: tuple[int, ...] = (), fallback: tuple[int, ...] = ()):
    """A TokenTable with these pieces."""
    flags = np.zeros((2, len(pieces)), dtype=bool)
    flags[0, list(special)] = True
    flags[1, list(fallback)] = True
    return TokenTable(list(pieces), flags[0], flags[0].copy(), flags[1], "byte_level")


def test_same_bytes_come_first_then_the_first_token_then_nothing() -> None:
    source = table(b"cat", b"cats", b"\xff", b"", b"<eos>", special=(4,))
    pivot = table(b"<end>", b"cat", b"c", special=(0,))
    found = vocabulary_map(
        source,
        pivot,
        lambda data: [{b"cats": 1}.get(piece, -1) for piece in data],
        roles={4: 0},
        size=7,
    )
    assert found.pivot_V.tolist() == [1, 1, -1, -1, 0, -1, -1]
    kinds = [How.SAME_BYTES, How.FIRST_TOKEN, How.UNMAPPED, How.EMPTY, How.SPECIAL]
    assert found.how_V.tolist() == [*kinds, How.EMPTY, How.EMPTY]
    # 3 ordinary tokens, one of each kind.
    assert found.shares() == {"same_bytes": 1 / 3, "first_token": 1 / 3, "unmapped": 1 / 3}


def test_an_ordinary_token_is_preferred_to_a_byte_token_of_the_same_bytes() -> None:
    pivot = table(b"A", b"A", b"A", fallback=(0,))
    found = vocabulary_map(table(b"A"), pivot, lambda data: [], roles={}, size=1)
    assert found.pivot_V.tolist() == [1]


def test_the_first_token_is_what_the_tokenizer_makes_in_the_middle_of_a_text() -> None:
    for tokenizer, own in ((PIVOT, PIVOT_TABLE), (SOURCE, SOURCE_TABLE)):
        pieces = [b"Ben has", b" many coins", b"12", " é🙂".encode(), b"\n", b"  "]
        found = first_tokens(own, partial(encode, tokenizer), pieces)
        for piece, token in zip(pieces, found, strict=True):
            assert token >= 0 and own.bytes_V[token]
            # No dummy prefix: the token's bytes begin the piece, or go beyond a one-token piece.
            assert piece.startswith(own.bytes_V[token]) or own.bytes_V[token].startswith(piece)


def test_a_piece_of_a_character_takes_its_longest_prefix() -> None:
    euro = "€".encode()
    assert first_tokens(table(euro[:1], euro[:2]), lambda texts: [], [euro[:2], b"\xff"]) == [1, -1]


def test_mapped_tokens_begin_with_the_same_bytes() -> None:
    first = partial(first_tokens, PIVOT_TABLE, partial(encode, PIVOT))
    found = vocabulary_map(SOURCE_TABLE, PIVOT_TABLE, first, roles={}, size=len(SOURCE_TABLE))
    assert found.counts()["unmapped"] == 0
    for source_id, pivot_id in enumerate(found.pivot_V):
        if pivot_id >= 0:
            theirs, ours = SOURCE_TABLE.bytes_V[source_id], PIVOT_TABLE.bytes_V[pivot_id]
            assert theirs[: len(ours)] == ours[: len(theirs)]
            if found.how_V[source_id] == How.SAME_BYTES:
                assert theirs == ours


def test_the_map_is_the_same_every_time() -> None:
    first = partial(first_tokens, SOURCE_TABLE, partial(encode, SOURCE))
    maps = [
        vocabulary_map(PIVOT_TABLE, SOURCE_TABLE, first, roles={}, size=len(PIVOT_TABLE))
        for _ in range(2)
    ]
    assert maps[0].pivot_V.tolist() == maps[1].pivot_V.tolist()


def test_the_identity_map_leaves_the_padding_of_the_head_out() -> None:
    found = identity_map(5, known=3)
    assert found.pivot_V.tolist() == [0, 1, 2, -1, -1]
    assert found.counts()["same_bytes"] == 3
