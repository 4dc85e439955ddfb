"""The header of a safetensors file: where each tensor lies. Nothing in it is trusted."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infifusion.errors import CheckpointError
from infifusion.merge.checkpoints.dtypes import STORED, bytes_of

# Bytes of JSON that are read: 150,000 tensors in one file, which no sharded model has, take 16 MiB;
# as Python objects hostile JSON takes some twenty times what it has in bytes.
LARGEST_HEADER = 1 << 24
LARGEST_LENGTH = 1 << 62
MOST_AXES = 32  # what NumPy can hold is 64


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies: file, dtype, shape and the bytes from start to stop of the file."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, Stored]:
    """Every tensor of one safetensors file. Raises CheckpointError when the header does not
    describe exactly the bytes that are there."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(LARGEST_HEADER, size - 8):
            raise _damaged(path, f"its header would take {length} bytes of the file's {size}")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=no_repeats)
        header.pop("__metadata__", None)
        found = {name: _stored(path.name, 8 + length, entry) for name, entry in header.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"its header cannot be read ({error!r:.200})") from None
    end = max((stored.stop for stored in found.values()), default=8 + length)
    if end != size:
        raise _damaged(path, f"its header announces {end} bytes; it has {size} bytes")
    _check_layout(path, found, 8 + length)
    return found


def _stored(file: str, start: int, entry: dict[str, Any]) -> Stored:
    first, last = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if not isinstance(entry["dtype"], str):
        raise ValueError("a dtype is no text")
    if any(type(number) is not int or number < 0 for number in (*shape, first, last)):
        raise ValueError("a length or offset is no whole number from 0 on")
    if len(shape) > MOST_AXES or max((*shape, last), default=0) > LARGEST_LENGTH:
        raise ValueError("a shape that no tensor has")
    return Stored(file, entry["dtype"], shape, start + first, start + last)


def _check_layout(path: Path, found: dict[str, Stored], start: int) -> None:
    """The tensors lie one after another, without overlap or hole, each as long as it says."""
    for name, stored in sorted(found.items(), key=lambda item: (item[1].start, item[1].stop)):
        if stored.start != start:
            raise _damaged(path, f"{name} lies at byte {stored.start}, the one before ends {start}")
        if stored.dtype in STORED and stored.stop - start != stored.size * bytes_of(stored.dtype):
            raise _damaged(
                path,
                f"{name} is {stored.dtype} {list(stored.shape)}, but takes {stored.stop - start} "
                "bytes",
            )
        if stored.stop < start:
            raise _damaged(path, f"{name} ends before it starts")
        start = stored.stop


def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError where a name stands in it twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is no whole safetensors file: {why:.500}. It was cut short or damaged; "
        "copy it again."
    )
