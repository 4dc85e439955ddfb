"""Memory-mapped arrays that several processes fill, begun whole by the first one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from infifusion.errors import ArtifactError
from infifusion.process.runtime import rank
from infifusion.store.durable import atomic_write
from infifusion.store.spread import wait_for

Shape = tuple[tuple[int, int], DTypeLike]


def open_arrays(out: Path, shapes: Mapping[str, Shape], what: str) -> dict[str, np.memmap]:
    """The arrays out/NAME.npy of these shapes and dtypes, for reading and writing.

    The first process makes the files that are missing; the others wait, and say for `what`. Raises
    OSError where the disk cannot hold them, and ArtifactError where a file that was begun earlier
    is not whole.
    """
    paths = {name: out / f"{name}.npy" for name in shapes}
    for name, (shape, dtype) in shapes.items():
        if rank() == 0 and not paths[name].exists():
            with atomic_write(paths[name]) as temporary:
                np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape).flush()
                _allocate(temporary)
    wait_for(paths.values(), what)
    return {name: open_array(paths[name], *shapes[name]) for name in shapes}


def open_array(path: Path, shape: tuple[int, int], dtype: DTypeLike) -> np.memmap:
    """One of them, which is there; ArtifactError where its header or its size is not as begun."""
    header, kind = BytesIO(), np.dtype(dtype)
    described = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False}
    np.lib.format.write_array_header_1_0(header, {**described, "shape": shape})
    expected = header.getvalue()
    with path.open("rb") as file:
        found = file.read(len(expected))
    size = len(expected) + kind.itemsize * shape[0] * shape[1]
    if found != expected or path.stat().st_size != size:
        raise ArtifactError(
            f"{path} is not the array that was begun there: expected {kind} {list(shape)} in "
            f"{size:,} bytes. It was damaged or cut short. Delete it and run again."
        )
    return np.lib.format.open_memmap(path, mode="r+")


def _allocate(path: Path) -> None:
    """Reserve the file's space now. A new array is a sparse file, and a write to a mapped page that
    finds the disk full raises no error but kills the process by a signal (SIGBUS)."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
