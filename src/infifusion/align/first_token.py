"""The first token a tokenizer makes of some bytes in the middle of a text."""

from __future__ import annotations

from collections.abc import Callable

from infifusion.align.byte_spans import TokenTable, byte_starts
from infifusion.errors import TokenizerError

# Something to stand before the bytes, so that no start-of-text rule (a dummy prefix) applies. The
# next one is tried where the bytes merge with the one before them.
ANCHORS = ("\n", "a", "0", ")", "\u00e9")
# A first token never depends on text this far away, and long blanks would cost quadratic time.
LONGEST = 256


def first_tokens(
    table: TokenTable, encode: Callable[[list[str]], list[list[int]]], data: list[bytes]
) -> list[int]:
    """Token id per byte string, or -1 where the tokenizer makes none.

    encode gives the token ids of texts without special tokens. Bytes that are no valid UTF-8 (a
    piece of a character) take the longest token that is a prefix of them.
    """
    token_of = [-1] * len(data)
    texts: dict[int, str] = {}
    of_bytes = {piece: index for index, piece in reversed(list(enumerate(table.bytes_V))) if piece}
    for place, piece in enumerate(data):
        try:
            texts[place] = piece[:LONGEST].decode()
        except UnicodeDecodeError:
            token_of[place] = _longest_prefix(piece, of_bytes)
    for anchor in ANCHORS:
        if not texts:
            break
        places = list(texts)
        anchored = [anchor + texts[place] for place in places]
        for place, text, ids in zip(places, anchored, encode(anchored), strict=True):
            token = _token_at(table, ids, text, len(anchor.encode()))
            if token >= 0:
                token_of[place] = token
                del texts[place]
    return token_of


def _token_at(table: TokenTable, ids: list[int], text: str, byte: int) -> int:
    """The token that starts at `byte` and covers some of the text, or -1."""
    try:
        starts = byte_starts(table, ids, text)
    except TokenizerError:
        return -1
    for token, start, end in zip(ids, starts[:-1], starts[1:], strict=True):
        if start == byte and end > byte:
            return -1 if table.special_V[token] else token
    return -1


def _longest_prefix(piece: bytes, of_bytes: dict[bytes, int]) -> int:
    return next(
        (of_bytes[piece[:n]] for n in range(len(piece), 0, -1) if piece[:n] in of_bytes), -1
    )
