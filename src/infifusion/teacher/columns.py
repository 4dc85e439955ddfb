"""A key-value cache that rows leave and join while a batch generates.

All rows end at one column, `now`: a row of n tokens lies in the columns [now - n, now), what is
left of it is masked. So a step writes one column of every row at once, whatever the rows' lengths,
and a model sees what it sees in any batch that is padded on the left.

Axes: R rows, H key-value heads, C columns, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

ROOM = 64
"""Columns that are made at once, at least: every time, all that is there is copied."""


class Column(DynamicLayer):
    """One layer: keys and values of all rows, written in place."""

    def __init__(self, table: Columns, keys_RHCD: torch.Tensor, values_RHCD: torch.Tensor) -> None:
        super().__init__()
        self._table, self.keys, self.values = table, keys_RHCD, values_RHCD
        self.dtype, self.device, self.is_initialized = keys_RHCD.dtype, keys_RHCD.device, True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the one new column of all rows; give back all that is not masked in every row."""
        table = self._table
        rows = slice(0, len(table.lengths))
        seen = slice(table.begin, table.now + 1)
        found = []
        for held, new in ((self.keys, key_states), (self.values, value_states)):
            assert held is not None
            held[rows, :, table.now : table.now + 1] = new
            found.append(held[rows, :, seen])
        return found[0], found[1]

    def get_seq_length(self) -> int:
        """Columns before the one that is written."""
        return self._table.now - self._table.begin


class Columns:
    """The cache of up to `most` rows; lengths: the tokens of each row that is in it."""

    def __init__(self, most: int) -> None:
        self.lengths: list[int] = []
        self.now = 0
        self._most = most
        self._layers: list[Column] = []

    @property
    def begin(self) -> int:
        """The first column that some row uses."""
        return self.now - max(self.lengths, default=0)

    def cache(self) -> Cache:
        """What the model is given as past_key_values."""
        return Cache(layers=list(self._layers))

    def mask_RC(self, device: torch.device) -> torch.Tensor:
        """1 where a row has a token, the new column included: [R, columns from begin to now]."""
        width = max(self.lengths) + 1
        length_R1 = torch.tensor(self.lengths, device=device)[:, None]
        return (torch.arange(width, device=device)[None] >= width - 1 - length_R1).long()

    def join(self, filled: Cache, places: Sequence[tuple[int, int]]) -> None:
        """Take in rows of a cache that a forward pass filled, padded on the left. places: of each
        new row its row there, and its tokens."""
        width = max(length for _, length in places)
        self._make_room(filled, width)
        first = len(self.lengths)
        rows = [row for row, _ in places]
        theirs_of: list[Any] = list(filled.layers)
        for held, new in zip(self._layers, theirs_of, strict=True):
            for mine, theirs in ((held.keys, new.keys), (held.values, new.values)):
                assert mine is not None and theirs is not None
                part = mine[first : first + len(places), :, self.now - width : self.now]
                part.copy_(theirs[rows, :, theirs.shape[2] - width :])
        self.lengths += [length for _, length in places]

    def step(self) -> None:
        """Every row has one token more. There is room for it since `join` or the step before."""
        self.lengths = [length + 1 for length in self.lengths]
        self.now += 1
        if self.now >= self._capacity:
            self._make_room(None, 0)

    def leave(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            seen = slice(self.now - self.lengths[last], self.now)
            for layer in self._layers:
                for held in (layer.keys, layer.values):
                    assert held is not None
                    held[row, :, seen] = held[last, :, seen]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    @property
    def _capacity(self) -> int:
        return 0 if not self._layers else int(self._layers[0].keys.shape[2])  # pyright: ignore

    def _make_room(self, filled: Cache | None, width: int) -> None:
        """Let `width` columns lie before `now` and one behind it: move what is there, to larger
        arrays where these are too small."""
        used = self.now - self.begin
        before = max(used, width)
        enough = self._capacity > before
        if enough and self.now >= width and self.now < self._capacity:
            return
        kept = slice(self.begin, self.now)
        size = self._capacity if enough and before <= self._capacity // 2 else 0
        size = size or before + max(ROOM, before // 2)
        like: list[Any] = self._layers or ([] if filled is None else list(filled.layers))
        rows = slice(0, len(self.lengths))
        for place, layer in enumerate(like):  # one at a time, so that no two caches are there
            pair = []
            for held in (layer.keys, layer.values):
                assert held is not None
                # Zeros, not whatever was there: a masked NaN is one all the same.
                new = held.new_zeros(self._most, held.shape[1], size, held.shape[3])
                if used:
                    new[rows, :, before - used : before] = held[rows, :, kept]
                pair.append(new)
            like[place] = Column(self, *pair)
        self._layers, self.now = like, before
