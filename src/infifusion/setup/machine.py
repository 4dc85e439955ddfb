"""What this machine has: cores, memory, GPUs, room on the disk."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from infifusion.process.threads import cores


@dataclass(frozen=True)
class Gpu:
    """One CUDA device; bytes."""

    name: str
    memory: int
    free: int


@dataclass(frozen=True)
class Machine:
    """cores that this process may use; bytes of memory, and of memory that is free."""

    cores: int
    memory: int
    free_memory: int
    gpus: tuple[Gpu, ...]


def this_machine() -> Machine:
    """Ask the system and torch."""
    import torch

    gpus = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, memory = torch.cuda.mem_get_info(number)
        gpus.append(Gpu(torch.cuda.get_device_name(number), memory, free))
    memory = psutil.virtual_memory()
    return Machine(cores(), memory.total, memory.available, tuple(gpus))
