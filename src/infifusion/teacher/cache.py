"""The cache of beliefs on disk: fixed-width shards of whole examples.

A shard is one safetensors file with the arrays of types.Beliefs for examples
[shard * size, (shard + 1) * size). Shards appear whole or not at all, so a pass that was stopped
goes on with the first missing one.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from infifusion.artifacts import atomic_write
from infifusion.errors import ArtifactError
from infifusion.types import Beliefs

NAMES = tuple(field.name for field in fields(Beliefs))


def shard_path(folder: Path, shard: int) -> Path:
    """Where a shard lies."""
    return folder / f"shard-{shard:05d}.safetensors"


def write_shard(folder: Path, shard: int, beliefs: Beliefs) -> None:
    """Write one shard whole or not at all."""
    with atomic_write(shard_path(folder, shard)) as temporary:
        save_file({name: getattr(beliefs, name) for name in NAMES}, temporary)


class BeliefReader:
    """Rows of a finished cache, read from memory-mapped shards."""

    def __init__(self, folder: Path, row_N1: NDArray[np.int64], shard_examples: int) -> None:
        """row_N1 is the source's Rendered.row_N1; shard_examples as in the recipe.

        Raises ArtifactError when the shards do not hold exactly these rows.
        """
        examples = len(row_N1) - 1
        self._first_row = row_N1[np.minimum(np.arange(0, examples, shard_examples), examples)]
        self._row_N1 = row_N1
        self._shards = []
        for shard, first in enumerate(self._first_row):
            last = row_N1[min((shard + 1) * shard_examples, examples)]
            self._shards.append(_open(shard_path(folder, shard), int(last - first)))

    def examples(self, begin: int, end: int) -> Beliefs:
        """The rows of examples [begin, end)."""
        low, high = int(self._row_N1[begin]), int(self._row_N1[end])
        parts: dict[str, list[NDArray]] = {name: [] for name in NAMES}
        for first, shard in zip(self._first_row, self._shards, strict=True):
            rows = shard.get_slice("gold_U").get_shape()[0]
            start, stop = max(low - int(first), 0), min(high - int(first), rows)
            if start < stop:
                for name in NAMES:
                    parts[name].append(shard.get_slice(name)[start:stop])
        return Beliefs(**{name: np.concatenate(parts[name]) for name in NAMES})


def _open(path: Path, rows: int) -> safe_open:
    try:
        shard = safe_open(path, framework="np")
        found = shard.get_slice("gold_U").get_shape()[0]
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{path} cannot be read ({error}): it is missing or cut short. Delete the folder "
            f"{path.parent} and run again."
        ) from error
    if found != rows:
        raise ArtifactError(
            f"{path} holds {found} positions, expected {rows}: it belongs to other data. Delete "
            f"the folder {path.parent} and run again."
        )
    return shard
