"""Writing a sharded safetensors checkpoint tensor by tensor, each at its known offset.

All shapes are known before the first byte is written, so shards, offsets and headers are planned
first; then tensors are written as they come, and memory holds one of them at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from infifusion.errors import CheckpointError
from infifusion.weights.reader import INDEX, SINGLE

SHARD_BYTES = 5_000_000_000
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Spec:
    """What a tensor will be: its dtype as safetensors names it, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Its size on disk."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def plan_shards(specs: Mapping[str, Spec], *, shard_bytes: int) -> list[list[str]]:
    """Tensor names of each shard, in the order given; a tensor is never split."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, spec in specs.items():
        if shards[-1] and size + spec.bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += spec.bytes
    return shards


def write_checkpoint(
    folder: Path,
    specs: Mapping[str, Spec],
    tensors: Iterable[tuple[str, torch.Tensor]],
    *,
    shard_bytes: int = SHARD_BYTES,
) -> list[Path]:
    """Write the tensors, which must come in the order of `specs`; returns the files.

    Raises CheckpointError when a tensor is not what its spec says.
    """
    shards = plan_shards(specs, shard_bytes=shard_bytes)
    files = [folder / _file_name(n, len(shards)) for n in range(len(shards))]
    source = iter(tensors)
    weight_map = {}
    for path, names in zip(files, shards, strict=True):
        with path.open("wb") as file:
            file.write(_header({name: specs[name] for name in names}))
            for name in names:
                found, tensor = next(source)
                _check(found, tensor, name, specs[name])
                file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
                weight_map[name] = path.name
    if len(files) > 1:
        total = sum(spec.bytes for spec in specs.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        files.append(folder / INDEX)
    return files


def _file_name(number: int, count: int) -> str:
    return SINGLE if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def _header(specs: Mapping[str, Spec]) -> bytes:
    """Length (8 bytes, little endian) and JSON header, padded with blanks to 8 bytes."""
    values: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, spec in specs.items():
        values[name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.bytes],
        }
        offset += spec.bytes
    text = json.dumps(values, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _check(found: str, tensor: torch.Tensor, name: str, spec: Spec) -> None:
    if (found, tuple(tensor.shape), tensor.dtype) != (name, spec.shape, DTYPES[spec.dtype]):
        raise CheckpointError(
            f"Writing {name} as {spec.dtype} {spec.shape}, but {found} came as {tensor.dtype} "
            f"{tuple(tensor.shape)}."
        )


def set_config_dtype(folder: Path, dtype: torch.dtype) -> None:
    """Let the folder's config.json name the dtype of the weights beside it."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
