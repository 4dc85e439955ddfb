"""One parameter tensor of S models and their base, in blocks.

Axes: S models, P positions. The arrays may be memory maps of checkpoints larger than memory: only
the blocks at work are decoded. Whatever is summed is summed block by block, and SPAN blocks at a
time in a fixed order, so that the number of threads cannot change a bit of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from infifusion.merge.blocks.arrays import HOST, Add, Array, Arrays

SPAN = 8  # blocks per task
Parallel = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


class NotFinite(ValueError):
    """NaN or Inf in an input. `source`: 0 for the base, s + 1 for model s."""

    def __init__(self, source: int) -> None:
        super().__init__("NaN or Inf in an input")
        self.source = source


@dataclass(frozen=True)
class Raw:
    """A stored tensor: flat array and its dtype by safetensors' name; bfloat16 is uint16."""

    array_P: np.ndarray
    dtype: str


@dataclass(frozen=True)
class Blocks:
    """A tensor that a merge method works on. size P; models S; shape as in the checkpoint; arrays:
    where it is worked on."""

    base: Raw | None
    models: list[Raw]
    shape: tuple[int, ...]
    seed: int = 0
    parallel: Parallel = map
    allow_not_finite: bool = False
    arrays: Arrays = HOST

    @property
    def kernels(self) -> Any:
        """The loops over the arrays of a block."""
        return self.arrays.kernels

    @property
    def size(self) -> int:
        """P."""
        return math.prod(self.shape)

    @property
    def row(self) -> int:
        """Length of the last dimension; P for vectors and scalars."""
        return self.shape[-1] if len(self.shape) > 1 else self.size

    @property
    def count(self) -> int:
        """Number of blocks."""
        return -(-self.size // self.arrays.step)

    def by_rows(self, length: int | None = None) -> Blocks:
        """The same tensor in blocks of whole rows of `length` positions (default: `row`)."""
        return replace(self, arrays=self.arrays.in_units(max(length or self.row, 1)))

    def block(self, index: int) -> Block:
        """Block number `index`."""
        start = index * self.arrays.step
        return Block(self, index, start, min(start + self.arrays.step, self.size))

    def spans(self) -> list[range]:
        """Block numbers, SPAN at a time: what one thread does at once."""
        return [range(n, min(n + SPAN, self.count)) for n in range(0, self.count, SPAN)]

    def total(self, add: Add, zeros: np.ndarray) -> np.ndarray:
        """`add(block, sums)` over all blocks; `zeros` gives shape and dtype of the sums."""

        def one(span: range) -> np.ndarray:
            return self.arrays.sum_blocks(map(self.block, span), add, zeros)

        return self.arrays.sum_spans(self.parallel(one, self.spans()), zeros)

    def collect(self, function: Callable[[Block], Any]) -> list[Any]:
        """`function(block)` of every block, in order."""
        spans = self.parallel(lambda s: [function(self.block(i)) for i in s], self.spans())
        return [value for values in spans for value in values]


@dataclass
class Block:
    """Positions start to stop of a tensor. Its arrays are decoded when first asked for and belong
    to whoever asks: a method may change them."""

    blocks: Blocks
    index: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Positions in this block."""
        return self.stop - self.start

    @cached_property
    def base_P(self) -> Array:
        """The base: float32."""
        assert self.blocks.base is not None
        base_1P = self.empty(1)
        self._decode([self.blocks.base], base_1P, first=0)
        return base_1P[0]

    @cached_property
    def model_SP(self) -> Array:
        """The models: float32."""
        model_SP = self.empty(len(self.blocks.models))
        self._decode(self.blocks.models, model_SP, first=1)
        return model_SP

    @cached_property
    def end_SP(self) -> Array:
        """The base and the models, the base first: float32."""
        assert self.blocks.base is not None
        end_SP = self.empty(1 + len(self.blocks.models))
        self._decode([self.blocks.base, *self.blocks.models], end_SP, first=0)
        return end_SP

    @cached_property
    def delta_SP(self) -> Array:
        """The models minus the base: float32."""
        delta_SP = self.empty(len(self.blocks.models))
        self._decode(self.blocks.models, delta_SP, first=1, base_P=self.base_P)
        return delta_SP

    def empty(self, *rows: int) -> Array:
        """Room for one value per position, in so many rows: float32."""
        return self.blocks.arrays.empty(*rows, self.size)

    def zeros(self) -> Array:
        """0 for every position: float32."""
        return self.blocks.arrays.zeros(self.size)

    def _decode(
        self, raws: list[Raw], out_SP: Array, *, first: int, base_P: Array | None = None
    ) -> None:
        """Stored values to float32, minus the base where it is given. Raises NotFinite."""
        parts = [raw.array_P[self.start : self.stop] for raw in raws]
        bad = self.blocks.arrays.decode(parts, [raw.dtype for raw in raws], out_SP, base_P)
        if bad >= 0 and not self.blocks.allow_not_finite:
            raise NotFinite(first + bad)
