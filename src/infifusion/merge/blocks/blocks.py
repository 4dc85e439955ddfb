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

from infifusion.merge.blocks.stored import alike, decode

# Positions: 512 KiB of float32 per model. Smaller blocks fit the cache better, but then threads
# wait for the interpreter more often than they calculate (32k: half as fast on two threads).
BLOCK = 131_072
SPAN = 8  # blocks per task
UNROLLED = 8  # models, for which loops are compiled each; with more they would not be vectors
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
    """A tensor that a merge method works on.

    shape: as in the checkpoint. parallel: calls a function with many arguments, as `map`. length:
    positions of a block, about. unit: positions that no block may part (a row, or 1).
    """

    base: Raw | None
    models: list[Raw]
    shape: tuple[int, ...]
    seed: int = 0
    parallel: Parallel = map
    allow_not_finite: bool = False
    length: int = BLOCK
    unit: int = 1

    @property
    def size(self) -> int:
        """P."""
        return math.prod(self.shape)

    @property
    def row(self) -> int:
        """Length of the last dimension; P for vectors and scalars; at least 1."""
        return max(self.shape[-1] if len(self.shape) > 1 else self.size, 1)

    @property
    def step(self) -> int:
        """Positions of a block: whole units."""
        return self.unit * max(1, self.length // self.unit)

    @property
    def count(self) -> int:
        """Number of blocks."""
        return -(-self.size // self.step)

    @cached_property
    def plain(self) -> bool:
        """Whether base and models are a few plain bfloat16 arrays, of which NaN and Inf are an
        error: those that the loops of `fused` take as they are stored."""
        raws = [*([self.base] if self.base else []), *self.models]
        return (
            not self.allow_not_finite
            and len(self.models) <= UNROLLED
            and all(raw.dtype == "BF16" and isinstance(raw.array_P, np.ndarray) for raw in raws)
            and alike([raw.array_P for raw in raws])
        )

    def by_rows(self, length: int | None = None) -> Blocks:
        """The same tensor in blocks of whole rows of `length` positions (default: `row`)."""
        return replace(self, unit=length or self.row)

    def block(self, index: int) -> Block:
        """Block number `index`."""
        start = index * self.step
        return Block(self, index, start, min(start + self.step, self.size))

    def spans(self) -> list[range]:
        """Block numbers, SPAN at a time: what one thread does at once."""
        return [range(n, min(n + SPAN, self.count)) for n in range(0, self.count, SPAN)]

    def total(self, add: Callable[[Block, np.ndarray], None], zeros: np.ndarray) -> np.ndarray:
        """`add(block, sums)` over all blocks; `zeros` gives shape and dtype of the sums."""

        def one(span: range) -> np.ndarray:
            sums = np.zeros_like(zeros)
            for index in span:
                add(self.block(index), sums)
            return sums

        total = np.zeros_like(zeros)
        for sums in self.parallel(one, self.spans()):
            total += sums
        return total

    def collect(self, function: Callable[[Block], Any]) -> list[Any]:
        """`function(block)` of every block, in order."""
        spans = self.parallel(lambda s: [function(self.block(i)) for i in s], self.spans())
        return [value for values in spans for value in values]


@dataclass
class Block:
    """Positions start to stop of a tensor. Its arrays are decoded when first asked for and belong
    to whoever asks: a method may change them. All are float32."""

    blocks: Blocks
    index: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Positions in this block."""
        return self.stop - self.start

    @cached_property
    def base_P(self) -> np.ndarray:
        """The base."""
        assert self.blocks.base is not None
        return self._decoded([self.blocks.base], first=0)[0]

    @cached_property
    def model_SP(self) -> np.ndarray:
        """The models."""
        return self._decoded(self.blocks.models, first=1)

    @cached_property
    def end_SP(self) -> np.ndarray:
        """The base and the models, the base first."""
        assert self.blocks.base is not None
        return self._decoded([self.blocks.base, *self.blocks.models], first=0)

    @cached_property
    def delta_SP(self) -> np.ndarray:
        """The models minus the base."""
        return self._decoded(self.blocks.models, first=1, base_P=self.base_P)

    @cached_property
    def vector_SP(self) -> np.ndarray:
        """The deltas, or the models where there is no base."""
        return self.model_SP if self.blocks.base is None else self.delta_SP

    @property
    def stored(self) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Base and models as they are stored."""
        assert self.blocks.base is not None
        return self.blocks.base.array_P[self.start : self.stop], self.stored_models

    @property
    def stored_models(self) -> tuple[np.ndarray, ...]:
        """The models as they are stored."""
        return tuple(raw.array_P[self.start : self.stop] for raw in self.blocks.models)

    def require_finite(self) -> None:
        """NotFinite with the source that holds NaN or Inf, where one does."""
        _ = self.vector_SP

    def empty(self) -> np.ndarray:
        """Room for one value per position."""
        return np.empty(self.size, np.float32)

    def _decoded(
        self, raws: list[Raw], *, first: int, base_P: np.ndarray | None = None
    ) -> np.ndarray:
        """Stored values, minus the base where it is given. Raises NotFinite; `first` is the source
        number of raws[0]."""
        out_SP = np.empty((len(raws), self.size), np.float32)
        parts = [raw.array_P[self.start : self.stop] for raw in raws]
        bad = decode(parts, [raw.dtype for raw in raws], out_SP, base_P)
        if bad >= 0 and not self.blocks.allow_not_finite:
            raise NotFinite(first + bad)
        return out_SP
