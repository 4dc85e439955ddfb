"""Where a merge calculates: its device, how long its blocks are, how many threads work."""

from __future__ import annotations

import re
from dataclasses import dataclass

from infifusion.errors import RecipeError
from infifusion.merge.blocks.arrays import BLOCK, HOST, Arrays
from infifusion.merge.engine.memory import (
    fit_threads,
    memory_of_host,
    most_parts,
    positions_at_once,
)
from infifusion.merge.engine.plan import MergePlan

# Bytes per position of a block beside the models' float32. On torch's CPU the methods take 2 to 76
# (arcee_fusion, in float64), measured; a GPU's sort needs more room than a processor's.
WORKING_BYTES = 128
# One thread's reading and writing goes on while another's block is calculated.
DEVICE_THREADS = 2
# Share of the device's free memory that is taken: what is freed is not always of the right size.
TAKEN = 0.8
# Anonymous memory of Python and torch before the first tensor (measured without a GPU, whose driver
# takes more).
TORCH_STARTED = 180_000_000
# Bytes per position of a block on the host: what is on its way to the device and back.
STAGED_BYTES = 8


@dataclass(frozen=True)
class Place:
    """memory: bytes on the host; device_memory: bytes on the device, 0 without one."""

    device: str
    arrays: Arrays
    threads: int
    memory: int
    device_memory: int


def check_device(name: str) -> None:
    """RecipeError for a name that no device can have."""
    if re.fullmatch(r"cpu|cuda(:\d+)?", name) is None:
        raise RecipeError(
            f"The device {name!r} is unknown. Give cpu (compiled loops), cuda, or cuda:1 for the "
            "second GPU."
        )


def choose_place(plan: MergePlan, device: str, *, threads: int | None, memory: int | None) -> Place:
    """The arrays to merge with. `torch:X` is any device X that torch has, without a look at what
    it is. RecipeError where there is no such device, or the memory does not hold one block."""
    if device == "cpu":
        workers = fit_threads(plan, threads=threads, memory=memory)
        return Place(device, HOST, workers, memory_of_host(plan, workers), 0)
    if device.startswith("torch:"):
        return _on_device(plan, device.removeprefix("torch:"), threads=threads, limit=memory)
    check_device(device)
    free = int(_free_memory(device) * TAKEN)
    return _on_device(plan, device, threads=threads, limit=min(free, memory or free))


def _on_device(plan: MergePlan, device: str, *, threads: int | None, limit: int | None) -> Place:
    """Blocks as long as fit the limit, for as many threads as asked for; else for fewer threads."""
    from infifusion.merge.blocks.arrays_torch import DEVICE_BLOCK, TorchArrays

    # A tensor's own thread and one that works on its blocks.
    each = 2 * (4 * most_parts(plan) + WORKING_BYTES)
    needed = 0
    for workers in range(threads or DEVICE_THREADS, 0, -1):
        block = DEVICE_BLOCK
        while block >= BLOCK:
            positions = positions_at_once(plan, block)
            needed = workers * each * positions
            if limit is None or needed <= limit:
                host = TORCH_STARTED + 2 * workers * STAGED_BYTES * positions
                return Place(device, TorchArrays(block, device=device), workers, host, needed)
            block //= 2
    raise RecipeError(
        f"{device} has {(limit or 0) / 1e6:.0f} MB for this merge (free memory, or --memory), but "
        f"one thread needs {needed / 1e6:.0f} MB. Free memory, or use --device cpu."
    )


def _free_memory(device: str) -> int:
    """Bytes that are free on a GPU. RecipeError where there is none of this name."""
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        raise RecipeError(
            f"--device {device}: this torch ({torch.__version__}) is built without CUDA. Install "
            "one with it (pytorch.org/get-started), or use --device cpu."
        )
    count = torch.cuda.device_count()
    if not torch.cuda.is_available() or not count:
        raise RecipeError(
            f"--device {device}: torch finds no GPU. Look at nvidia-smi and at "
            "CUDA_VISIBLE_DEVICES, or use --device cpu."
        )
    number = torch.device(device).index or 0
    if number >= count:
        raise RecipeError(
            f"--device {device}: there are {count} GPUs, cuda:0 to cuda:{count - 1}. Give one of "
            "them."
        )
    return torch.cuda.mem_get_info(number)[0]
