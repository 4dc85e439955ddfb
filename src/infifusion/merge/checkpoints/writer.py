"""Writing a sharded safetensors checkpoint at known offsets.

All shapes are known before the first byte is written, so shards, offsets and headers are made
first; then any thread may write any part of any tensor, and memory holds only what is at work.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from infifusion.merge.checkpoints.dtypes import bytes_of
from infifusion.merge.checkpoints.reader import INDEX, SINGLE

SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Spec:
    """What a tensor will be: its dtype as safetensors names it, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Its size on disk."""
        return math.prod(self.shape) * bytes_of(self.dtype)


def divide_into_shards(specs: Mapping[str, Spec], *, shard_bytes: int) -> dict[str, list[str]]:
    """File name -> tensor names, in the order given; a tensor is never split."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, spec in specs.items():
        if shards[-1] and size + spec.bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += spec.bytes
    count = len(shards)
    return {
        SINGLE if count == 1 else f"model-{n + 1:05d}-of-{count:05d}.safetensors": names
        for n, names in enumerate(shards)
    }


class Shard:
    """One safetensors file of known layout that is filled in any order, by any thread."""

    def __init__(self, path: Path, specs: Mapping[str, Spec]) -> None:
        """Write the header."""
        header, self._start = _header(specs)
        self._size = len(header) + sum(spec.bytes for spec in specs.values())
        self._step = {name: bytes_of(spec.dtype) for name, spec in specs.items()}
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._write(header, 0)

    def put(self, name: str, first: int, values: np.ndarray) -> None:
        """Write elements of the tensor from number `first` on."""
        self._write(
            np.ascontiguousarray(values).view(np.uint8).data if values.size else b"",
            self._start[name] + first * self._step[name],
        )

    def close(self) -> None:
        """Finish the file. Its length is set here: writing into a file that was made long before
        it was filled took twice as long."""
        os.ftruncate(self._descriptor, self._size)
        os.close(self._descriptor)

    def _write(self, data: bytes | memoryview, offset: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written


def write_index(folder: Path, shards: Mapping[str, list[str]], specs: Mapping[str, Spec]) -> None:
    """The index of a checkpoint of several files; a single file has none."""
    if len(shards) < 2:
        return
    weight_map = {name: file for file, names in shards.items() for name in names}
    total = sum(spec.bytes for spec in specs.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _header(specs: Mapping[str, Spec]) -> tuple[bytes, dict[str, int]]:
    """Length (8 bytes, little endian) and JSON header, padded with blanks to 8 bytes; and the
    place of each tensor in the file."""
    values: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offsets = {}
    offset = 0
    for name, spec in specs.items():
        offsets[name] = offset
        values[name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.bytes],
        }
        offset += spec.bytes
    text = json.dumps(values, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {n: start + o for n, o in offsets.items()}


def temporary_model(what: str) -> Path:
    """A new, empty folder that is deleted when this process ends, for a model that a merge has to
    make before it can read it."""
    place = Path(tempfile.mkdtemp(prefix=f"infifusion-{what}-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place
