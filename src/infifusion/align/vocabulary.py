"""Vocabulary map: which pivot token a source token id stands for, decided by bytes.

Same bytes; else the first pivot token of those bytes under the pivot's own tokenizer (in the
baseline `min_ed` the token at the smallest edit distance). Special tokens are mapped by role only.
What cannot be mapped is -1: its probability goes to the tail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from infifusion.align.byte_spans import TokenTable


class How(IntEnum):
    """How a source token was mapped."""

    UNMAPPED = 0
    SAME_BYTES = 1
    FIRST_TOKEN = 2
    SPECIAL = 3
    EMPTY = 4
    """The id names no token (a hole, or padding of the embedding)."""
    NEAREST = 5
    """By smallest edit distance (align.min_ed)."""


@dataclass(frozen=True)
class VocabularyMap:
    """pivot_V: int32, pivot id of each source id or -1; how_V: uint8, a `How` per source id."""

    pivot_V: NDArray[np.int32]
    how_V: NDArray[np.uint8]

    def counts(self) -> dict[str, int]:
        """How many source tokens were mapped in which way; `nearest` only where it was used."""
        number = {how.name.lower(): int((self.how_V == how).sum()) for how in How}
        return {k: n for k, n in number.items() if n or k != How.NEAREST.name.lower()}

    def shares(self) -> dict[str, float]:
        """Shares of the source's ordinary tokens (not special, not empty) by kind of mapping."""
        counts = self.counts()
        names = ("same_bytes", "first_token", "nearest", "unmapped")
        ordinary = {name: counts[name] for name in names if name in counts}
        total = sum(ordinary.values())
        return {name: count / total if total else 0.0 for name, count in ordinary.items()}


def identity_map(size: int, *, known: int) -> VocabularyMap:
    """Every id stands for itself: two models with one tokenizer of `known` tokens.

    Ids from `known` to `size`, the padding of the source's head, are not mapped.
    """
    ids_V = np.arange(size, dtype=np.int32)
    how_V = np.where(ids_V < known, How.SAME_BYTES, How.EMPTY).astype(np.uint8)
    return VocabularyMap(np.where(ids_V < known, ids_V, -1).astype(np.int32), how_V)


def ids_by_bytes(table: TokenTable) -> dict[bytes, int]:
    """The token of each text of bytes that is one, special tokens apart. Where several have the
    same bytes, ordinary ones come before `<0xNN>` ones, then the lowest id: the same in every
    process."""
    of_bytes: dict[bytes, int] = {}
    order = sorted(range(len(table)), key=lambda index: (bool(table.fallback_V[index]), index))
    for index in order:
        if table.bytes_V[index] and not table.special_V[index]:
            of_bytes.setdefault(table.bytes_V[index], index)
    return of_bytes


def vocabulary_map(
    source: TokenTable,
    pivot: TokenTable,
    other_token: Callable[[list[bytes]], list[int]],
    *,
    roles: dict[int, int],
    size: int,
    how: How = How.FIRST_TOKEN,
) -> VocabularyMap:
    """Map every source id below `size` (the width of the source's head) to a pivot id.

    other_token gives, for byte strings that are no pivot token, the id of the first token the
    pivot's tokenizer makes of each in the middle of a text, or -1 (first_token.first_tokens; with
    how = NEAREST edit_distance.nearest_tokens). roles maps special source ids to pivot ids (end of
    turn).
    """
    of_bytes = ids_by_bytes(pivot)
    pivot_V = np.full(size, -1, dtype=np.int32)
    how_V = np.full(size, How.EMPTY, dtype=np.uint8)
    others: list[int] = []
    for index in range(min(size, len(source))):
        data = source.bytes_V[index]
        if source.special_V[index]:
            how_V[index] = How.EMPTY  # counted apart; those with a role are set below
        elif data in of_bytes:
            pivot_V[index], how_V[index] = of_bytes[data], How.SAME_BYTES
        elif data:
            others.append(index)
    tokens = other_token([source.bytes_V[index] for index in others])
    for index, token in zip(others, tokens, strict=True):
        pivot_V[index] = token
        how_V[index] = how if token >= 0 else How.UNMAPPED
    for source_id, pivot_id in roles.items():
        pivot_V[source_id], how_V[source_id] = pivot_id, How.SPECIAL
    return VocabularyMap(pivot_V, how_V)
