"""One parameter tensor of S models and their base, in blocks that fit the processor's cache.

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

from infifusion.merge import kernels

# Positions: 512 KiB of float32 per model. Smaller blocks fit the cache better, but then threads
# wait for the interpreter more often than they calculate (32k: half as fast on two threads).
BLOCK = 131_072
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
    """A tensor that a merge method works on. size P; models S; shape as in the checkpoint."""

    base: Raw | None
    models: list[Raw]
    shape: tuple[int, ...]
    seed: int = 0
    parallel: Parallel = map
    allow_not_finite: bool = False
    step: int = BLOCK

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
        return -(-self.size // self.step)

    def by_rows(self, length: int | None = None) -> Blocks:
        """The same tensor in blocks of whole rows of `length` positions (default: `row`)."""
        row = max(length or self.row, 1)
        return replace(self, step=row * max(1, BLOCK // row))

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
    def base_P(self) -> np.ndarray:
        """The base: float32."""
        assert self.blocks.base is not None
        base_1P = np.empty((1, self.size), np.float32)
        self._decode([self.blocks.base], base_1P, first=0)
        return base_1P[0]

    @cached_property
    def model_SP(self) -> np.ndarray:
        """The models: float32."""
        model_SP = np.empty((len(self.blocks.models), self.size), np.float32)
        self._decode(self.blocks.models, model_SP, first=1)
        return model_SP

    @cached_property
    def end_SP(self) -> np.ndarray:
        """The base and the models, the base first: float32."""
        assert self.blocks.base is not None
        end_SP = np.empty((1 + len(self.blocks.models), self.size), np.float32)
        self._decode([self.blocks.base, *self.blocks.models], end_SP, first=0)
        return end_SP

    @cached_property
    def delta_SP(self) -> np.ndarray:
        """The models minus the base: float32."""
        delta_SP = np.empty((len(self.blocks.models), self.size), np.float32)
        self._decode(self.blocks.models, delta_SP, first=1, base_P=self.base_P)
        return delta_SP

    def empty(self) -> np.ndarray:
        """Room for one value per position: float32."""
        return np.empty(self.size, np.float32)

    def _decode(
        self,
        raws: list[Raw],
        out_SP: np.ndarray,
        *,
        first: int,
        base_P: np.ndarray | None = None,
    ) -> None:
        """Stored values to float32, minus the base where it is given. Raises NotFinite."""
        parts = tuple(raw.array_P[self.start : self.stop] for raw in raws)
        bits_SP = out_SP.view(np.uint32)
        if all(raw.dtype == "BF16" for raw in raws):
            if base_P is None:
                bad = kernels.decode_rows(parts, bits_SP)
            else:
                bad = kernels.decode_deltas(parts, base_P, bits_SP, out_SP)
        else:
            bad = -1
            for s, (raw, part) in enumerate(zip(raws, parts, strict=True)):
                if raw.dtype == "BF16":
                    kernels.decode_bfloat16(part, bits_SP[s])
                else:
                    out_SP[s] = part
                if bad < 0 and kernels.count_not_finite(bits_SP[s]):
                    bad = s
            if base_P is not None:
                kernels.subtract(out_SP, base_P)
        if bad >= 0 and not self.blocks.allow_not_finite:
            raise NotFinite(first + bad)


def encode(merged_P: np.ndarray, dtype: str) -> np.ndarray:
    """float32 in the storage dtype: rounded to the nearest, ties to even."""
    if dtype == "BF16":
        raw_P = np.empty(len(merged_P), np.uint16)
        kernels.encode_bfloat16(merged_P.view(np.uint32), raw_P)
        return raw_P
    if dtype == "F32":
        return merged_P
    with np.errstate(over="ignore"):  # Inf is looked for, and named, afterwards
        return merged_P.astype(NUMPY_DTYPES[dtype])


NUMPY_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
