"""Tensors of a torch device as the arrays of a merge: a GPU, or any other device of torch.

Axes: S models, P positions of a block, R rows of N positions. Blocks are a power of two of units
long and sums are taken in pairs (`kernels_torch`), so that neither the length of the blocks nor the
device changes a bit of a result. What is read goes to the device as it is stored, through pinned
memory, and becomes float32 there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from infifusion.merge.blocks.arrays import Add, Arrays
from infifusion.merge.blocks.kernels_torch import MAGNITUDE, TorchKernels, in_pairs, joined_in_pairs

# Positions: 64 MiB of float32 per model. A GPU needs tens of operations on so many to be busy for
# longer than it takes to ask for them.
DEVICE_BLOCK = 1 << 24
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@dataclass(frozen=True)
class TorchArrays(Arrays):
    """device: torch's name of it."""

    block: int = DEVICE_BLOCK
    device: str = "cuda"
    road: ClassVar[str] = "torch"

    @property
    def kernels(self) -> TorchKernels:
        return TorchKernels(self.unit)

    @property
    def step(self) -> int:
        units = max(1, self.block // self.unit)
        return self.unit << (units.bit_length() - 1)

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=self.device)

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float32, device=self.device)

    def mask(self, size: int) -> Tensor:
        return torch.zeros(size, dtype=torch.bool, device=self.device)

    def keys(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int64, device=self.device)

    def put(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(values)).to(self.device)

    def get(self, array: Tensor) -> np.ndarray:
        return array.cpu().numpy()

    def decode(
        self, parts: list[np.ndarray], dtypes: list[str], out_SP: Tensor, base_P: Tensor | None
    ) -> int:
        whole = []
        for out_P, part, dtype in zip(out_SP, parts, dtypes, strict=True):
            out_P.copy_(self._moved(part, dtype))
            whole.append(out_P.isfinite().all())
            if base_P is not None:
                out_P -= base_P
        found = torch.stack(whole).tolist()
        return -1 if all(found) else found.index(False)

    def encode(self, merged_P: Tensor, dtype: str) -> tuple[np.ndarray, int]:
        stored_P = merged_P.to(DTYPES[dtype])
        bad = int((~stored_P.isfinite()).sum())
        host_P = self._on_host(len(stored_P), dtype).copy_(stored_P)
        return _as_numpy(host_P), bad

    def sum_blocks(self, blocks: Iterable[Any], add: Add, zeros: np.ndarray) -> np.ndarray:
        def one(block: Any) -> np.ndarray:
            sums = np.zeros_like(zeros)
            add(block, sums)
            return sums

        return joined_in_pairs(map(one, blocks), zeros)

    def sum_spans(self, sums: Iterable[np.ndarray], zeros: np.ndarray) -> np.ndarray:
        return joined_in_pairs(sums, zeros)

    def bits(self, row_P: Tensor) -> Tensor:
        return row_P.view(torch.int32)

    def count(self, mask_P: Tensor) -> int:
        return int(mask_P.sum())

    def between(self, row_P: Tensor, low: int, high: int) -> np.ndarray:
        bits_P = row_P.view(torch.int32) & MAGNITUDE
        inside_P = (bits_P >= low) & (bits_P <= min(high, MAGNITUDE))
        return bits_P[inside_P].cpu().numpy().view(np.uint32)

    def sort_rows(self, key_RN: Tensor) -> None:
        key_RN.copy_(key_RN.sort(dim=1).values)

    def where(self, mask_P: Tensor, one_P: Tensor, other_P: Tensor) -> Tensor:
        return torch.where(mask_P, one_P, other_P)

    def row_products(self, a_RN: Tensor, b_RN: Tensor) -> np.ndarray:
        return in_pairs(a_RN.double() * b_RN.double()).cpu().numpy()

    def column_products(self, a_RN: Tensor, b_RN: Tensor) -> np.ndarray:
        return in_pairs((a_RN.double() * b_RN.double()).T).cpu().numpy()

    def float64(self, array: Tensor) -> Tensor:
        return array.double()

    def float32(self, array: Tensor) -> Tensor:
        return array.float()

    def exp(self, array: Tensor) -> Tensor:
        return array.exp()

    def log(self, array: Tensor) -> Tensor:
        return array.log()

    def row_max(self, array_RN: Tensor) -> Tensor:
        return array_RN.amax(1, keepdim=True)

    def row_sum(self, array_RN: Tensor) -> Tensor:
        return in_pairs(array_RN)[:, None]

    def _moved(self, part: np.ndarray, dtype: str) -> Tensor:
        """Stored values on the device, as they are stored."""
        host_P = self._on_host(len(part), dtype)
        _as_numpy(host_P)[:] = part
        return host_P.to(self.device, non_blocking=True)

    def _on_host(self, size: int, dtype: str) -> Tensor:
        """Room on the host that the device reads and writes directly."""
        pinned = torch.device(self.device).type == "cuda"
        return torch.empty(size, dtype=DTYPES[dtype], pin_memory=pinned)


def _as_numpy(stored_P: Tensor) -> np.ndarray:
    """The same memory; bfloat16 as uint16."""
    if stored_P.dtype == torch.bfloat16:
        return stored_P.view(torch.int16).numpy().view(np.uint16)
    return stored_P.numpy()
