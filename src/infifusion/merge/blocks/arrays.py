"""Where a merge calculates: the arrays it works on, and what is done with them besides the loops.

There are two roads. `HostArrays` are NumPy arrays under the compiled loops of `kernels`;
`arrays_torch.TorchArrays` are tensors of a torch device under the same loops of `kernels_torch`.
A merge method is written once: it calls `blocks.kernels` and `blocks.arrays` and never asks which.

Axes: S models, P positions of a block, R rows of N positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from infifusion.merge.blocks import kernels as compiled

# Positions: 512 KiB of float32 per model. Smaller blocks fit the cache better, but then threads
# wait for the interpreter more often than they calculate (32k: half as fast on two threads).
BLOCK = 131_072
# An array of the road in use: np.ndarray or torch.Tensor. Both know `+ - * / & ~ abs`, comparison
# with a number, slices, `reshape` and `clip`; methods use nothing else of them.
Array = Any
Add = Callable[[Any, np.ndarray], None]


@dataclass(frozen=True)
class Arrays(ABC):
    """block: positions of a block, about. unit: positions that no block may part (a row, or 1)."""

    block: int
    unit: int = 1
    road: ClassVar[str]
    """compiled or torch. What a merge sums may differ in the last bits between them."""

    @property
    @abstractmethod
    def kernels(self) -> Any:
        """The loops: `kernels`, or what stands for it."""

    @property
    def step(self) -> int:
        """Positions of a block: whole units."""
        return self.unit * max(1, self.block // self.unit)

    def in_units(self, unit: int) -> Self:
        """The same, in blocks of whole units."""
        return replace(self, unit=unit)

    @abstractmethod
    def empty(self, *shape: int) -> Array:
        """Room for float32."""

    @abstractmethod
    def zeros(self, *shape: int) -> Array:
        """float32."""

    @abstractmethod
    def mask(self, size: int) -> Array:
        """bool, nothing set."""

    @abstractmethod
    def keys(self, *shape: int) -> Array:
        """Room for what `kernels.rank_keys` makes."""

    @abstractmethod
    def put(self, values: np.ndarray) -> Array:
        """Values of the host as an array of this road."""

    @abstractmethod
    def get(self, array: Array) -> np.ndarray:
        """An array of this road as one of the host."""

    @abstractmethod
    def decode(
        self, parts: list[np.ndarray], dtypes: list[str], out_SP: Array, base_P: Array | None
    ) -> int:
        """Stored values to float32, minus the base where it is given. The number of the first part
        that holds NaN or Inf, or -1."""

    @abstractmethod
    def encode(self, merged_P: Array, dtype: str) -> tuple[np.ndarray, int]:
        """float32 as it is stored, on the host, rounded to the nearest, ties to even; and how many
        of the stored values are NaN or Inf."""

    @abstractmethod
    def sum_blocks(self, blocks: Iterable[Any], add: Add, zeros: np.ndarray) -> np.ndarray:
        """`add(block, sums)` over some neighbouring blocks."""

    @abstractmethod
    def sum_spans(self, sums: Iterable[np.ndarray], zeros: np.ndarray) -> np.ndarray:
        """The sums of all spans of blocks, in their order, as one."""

    @abstractmethod
    def bits(self, row_P: Array) -> Array:
        """float32 seen as whole numbers of 32 bits."""

    @abstractmethod
    def count(self, mask_P: Array) -> int:
        """How many are set."""

    @abstractmethod
    def between(self, row_P: Array, low: int, high: int) -> np.ndarray:
        """The magnitudes with bits in [low, high], in order: uint32 on the host."""

    @abstractmethod
    def sort_rows(self, key_RN: Array) -> None:
        """Sort each row, in place."""

    @abstractmethod
    def where(self, mask_P: Array, one_P: Array, other_P: Array) -> Array:
        """`one` where the mask is set, else `other`."""

    @abstractmethod
    def row_products(self, a_RN: Array, b_RN: Array) -> np.ndarray:
        """Inner product of each pair of rows, float64 on the host: [R]."""

    @abstractmethod
    def column_products(self, a_RN: Array, b_RN: Array) -> np.ndarray:
        """Inner product of each pair of columns, float64 on the host: [N]."""

    @abstractmethod
    def float64(self, array: Array) -> Array: ...

    @abstractmethod
    def float32(self, array: Array) -> Array: ...

    @abstractmethod
    def exp(self, array: Array) -> Array: ...

    @abstractmethod
    def log(self, array: Array) -> Array: ...

    @abstractmethod
    def row_max(self, array_RN: Array) -> Array:
        """The largest of each row: [R, 1]."""

    @abstractmethod
    def row_sum(self, array_RN: Array) -> Array:
        """The sum of each row: [R, 1]."""


@dataclass(frozen=True)
class HostArrays(Arrays):
    """NumPy arrays and compiled loops, in blocks that fit the processor's cache."""

    block: int = BLOCK
    road: ClassVar[str] = "compiled"

    @property
    def kernels(self) -> Any:
        return compiled

    def empty(self, *shape: int) -> np.ndarray:
        return np.empty(shape, np.float32)

    def zeros(self, *shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    def mask(self, size: int) -> np.ndarray:
        return np.zeros(size, np.bool_)

    def keys(self, *shape: int) -> np.ndarray:
        return np.empty(shape, np.uint64)

    def put(self, values: np.ndarray) -> np.ndarray:
        return values

    def get(self, array: np.ndarray) -> np.ndarray:
        return array

    def decode(
        self,
        parts: list[np.ndarray],
        dtypes: list[str],
        out_SP: np.ndarray,
        base_P: np.ndarray | None,
    ) -> int:
        bits_SP = out_SP.view(np.uint32)
        if all(dtype == "BF16" for dtype in dtypes):
            if base_P is None:
                return compiled.decode_rows(tuple(parts), bits_SP)
            return compiled.decode_deltas(tuple(parts), base_P, bits_SP, out_SP)
        bad = -1
        for s, (part, dtype) in enumerate(zip(parts, dtypes, strict=True)):
            if dtype == "BF16":
                compiled.decode_bfloat16(part, bits_SP[s])
            else:
                out_SP[s] = part
            if bad < 0 and compiled.count_not_finite(bits_SP[s]):
                bad = s
        if base_P is not None:
            compiled.subtract(out_SP, base_P)
        return bad

    def encode(self, merged_P: np.ndarray, dtype: str) -> tuple[np.ndarray, int]:
        stored_P = encode(merged_P, dtype)
        return stored_P, not_finite(stored_P, dtype)

    def sum_blocks(self, blocks: Iterable[Any], add: Add, zeros: np.ndarray) -> np.ndarray:
        sums = np.zeros_like(zeros)
        for block in blocks:
            add(block, sums)
        return sums

    def sum_spans(self, sums: Iterable[np.ndarray], zeros: np.ndarray) -> np.ndarray:
        total = np.zeros_like(zeros)
        for one in sums:
            total += one
        return total

    def bits(self, row_P: np.ndarray) -> np.ndarray:
        return row_P.view(np.uint32)

    def count(self, mask_P: np.ndarray) -> int:
        return int(np.count_nonzero(mask_P))

    def between(self, row_P: np.ndarray, low: int, high: int) -> np.ndarray:
        out = np.empty(len(row_P) + 1, np.uint32)
        bits_P = row_P.view(np.uint32)
        count = compiled.gather_between(bits_P, np.uint32(low), np.uint32(high), out)
        return out[:count].copy()

    def sort_rows(self, key_RN: np.ndarray) -> None:
        key_RN.sort(axis=1)

    def where(self, mask_P: np.ndarray, one_P: np.ndarray, other_P: np.ndarray) -> np.ndarray:
        return np.where(mask_P, one_P, other_P)

    def row_products(self, a_RN: np.ndarray, b_RN: np.ndarray) -> np.ndarray:
        pairs = zip(a_RN, b_RN, strict=True)
        return np.array([compiled.sum_of_products(a_N, b_N) for a_N, b_N in pairs], np.float64)

    def column_products(self, a_RN: np.ndarray, b_RN: np.ndarray) -> np.ndarray:
        return (a_RN.astype(np.float64) * b_RN.astype(np.float64)).sum(axis=0)

    def float64(self, array: np.ndarray) -> np.ndarray:
        return array.astype(np.float64)

    def float32(self, array: np.ndarray) -> np.ndarray:
        return array.astype(np.float32)

    def exp(self, array: np.ndarray) -> np.ndarray:
        return np.exp(array)

    def log(self, array: np.ndarray) -> np.ndarray:
        return np.log(array)

    def row_max(self, array_RN: np.ndarray) -> np.ndarray:
        return array_RN.max(axis=1, keepdims=True)

    def row_sum(self, array_RN: np.ndarray) -> np.ndarray:
        return array_RN.sum(axis=1, keepdims=True)


HOST = HostArrays()


def encode(merged_P: np.ndarray, dtype: str) -> np.ndarray:
    """float32 in the storage dtype: rounded to the nearest, ties to even."""
    if dtype == "BF16":
        raw_P = np.empty(len(merged_P), np.uint16)
        compiled.encode_bfloat16(merged_P.view(np.uint32), raw_P)
        return raw_P
    if dtype == "F32":
        return merged_P
    with np.errstate(over="ignore", invalid="ignore"):  # Inf is looked for, and named, afterwards
        return merged_P.astype(NUMPY_DTYPES[dtype])


def not_finite(stored_P: np.ndarray, dtype: str) -> int:
    """How many stored values are NaN or Inf."""
    if dtype == "BF16":
        return int(np.count_nonzero((stored_P & 0x7F80) == 0x7F80))
    return int(stored_P.size - np.count_nonzero(np.isfinite(stored_P)))


NUMPY_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
