"""Vocabulary map: which pivot token a source token id stands for, decided by bytes.

Same bytes; else the first pivot token of those bytes under the pivot's own tokenizer. Special
tokens are mapped by role only. What cannot be mapped is -1: its probability goes to the tail.
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


@dataclass(frozen=True)
class VocabularyMap:
    """pivot_V: int32, pivot id of each source id or -1; how_V: uint8, a `How` per source id."""

    pivot_V: NDArray[np.int32]
    how_V: NDArray[np.uint8]

    def counts(self) -> dict[str, int]:
        """How many source tokens were mapped in which way."""
        return {how.name.lower(): int((self.how_V == how).sum()) for how in How}

    def shares(self) -> dict[str, float]:
        """Shares of the source's ordinary tokens (not special, not empty) by kind of mapping."""
        counts = self.counts()
        total = counts["same_bytes"] + counts["first_token"] + counts["unmapped"]
        names = ("same_bytes", "first_token", "unmapped")
        return {name: counts[name] / total if total else 0.0 for name in names}


def identity_map(size: int, *, known: int) -> VocabularyMap:
    """Every id stands for itself: two models with one tokenizer of `known` tokens.

    Ids from `known` to `size`, the padding of the source's head, are not mapped.
    """
    ids_V = np.arange(size, dtype=np.int32)
    how_V = np.where(ids_V < known, How.SAME_BYTES, How.EMPTY).astype(np.uint8)
    return VocabularyMap(np.where(ids_V < known, ids_V, -1).astype(np.int32), how_V)


def vocabulary_map(
    source: TokenTable,
    pivot: TokenTable,
    first_token: Callable[[list[bytes]], list[int]],
    *,
    roles: dict[int, int],
    size: int,
) -> VocabularyMap:
    """Map every source id below `size` (the width of the source's head) to a pivot id.

    first_token gives, for byte strings, the id of the first token the pivot's tokenizer makes of
    each in the middle of a text, or -1. roles maps special source ids to pivot ids (end of turn).
    Where several pivot tokens have the same bytes, ordinary ones come before `<0xNN>` ones, then
    the lowest id: the map is the same in every process.
    """
    of_bytes: dict[bytes, int] = {}
    order = sorted(range(len(pivot)), key=lambda index: (bool(pivot.fallback_V[index]), index))
    for index in order:
        if pivot.bytes_V[index] and not pivot.special_V[index]:
            of_bytes.setdefault(pivot.bytes_V[index], index)
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
    first = first_token([source.bytes_V[index] for index in others])
    for index, token in zip(others, first, strict=True):
        pivot_V[index] = token
        how_V[index] = How.FIRST_TOKEN if token >= 0 else How.UNMAPPED
    for source_id, pivot_id in roles.items():
        pivot_V[source_id], how_V[source_id] = pivot_id, How.SPECIAL
    return VocabularyMap(pivot_V, how_V)
