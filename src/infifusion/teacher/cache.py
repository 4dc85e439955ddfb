"""The cache of beliefs on disk: fixed-width shards of whole examples.

A shard is one safetensors file with the arrays of types.Beliefs for examples
[shard * size, (shard + 1) * size); token ids lie in it as teacher.ids packs them. Shards appear
whole or not at all, so a pass that was stopped goes on with the first missing one.

Bytes per position: 2 K for log-probabilities (fp16), 2 K and K bits per bit of the vocabulary
beyond 16 for ids, 20 for the five scalars: 60 at K = 10 up to 65,536 entries, 63 up to 262,144.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from infifusion.errors import ArtifactError, CheckpointError
from infifusion.merge.checkpoints.reader import arrays_of
from infifusion.store.disk import unreadable
from infifusion.store.durable import atomic_write
from infifusion.teacher.ids import high_bits, pack_ids, unpack_ids
from infifusion.types import Beliefs

IDS = "ids_UK"
LOW, HIGH = "low_UK", "high_UH"
PLAIN = tuple(field.name for field in fields(Beliefs) if field.name != IDS)


def shard_path(folder: Path, shard: int) -> Path:
    """Where a shard lies."""
    return folder / f"shard-{shard:05d}.safetensors"


def write_shard(folder: Path, shard: int, beliefs: Beliefs, *, vocabulary: int) -> None:
    """Write one shard whole or not at all; every id is below `vocabulary`."""
    low_UK, high_UX = pack_ids(beliefs.ids_UK, vocabulary)
    arrays = {LOW: low_UK, HIGH: high_UX, **{name: getattr(beliefs, name) for name in PLAIN}}
    with atomic_write(shard_path(folder, shard)) as temporary:
        save_file(arrays, temporary)


class BeliefReader:
    """Rows of a finished cache, read from memory-mapped shards.

    Only the shards of the last call are open: a large cache has more than a process may have files.
    """

    def __init__(
        self, folder: Path, row_N1: NDArray[np.int64], shard_examples: int, *, vocabulary: int
    ) -> None:
        """row_N1 is the source's Rendered.row_N1; shard_examples as in the recipe; vocabulary as
        when the shards were written.

        Raises ArtifactError when the shards do not hold exactly these rows.
        """
        self._folder, self._row_N1, self._shard_examples = folder, row_N1, shard_examples
        self._bits = high_bits(vocabulary)
        self._shards: dict[int, _Shard] = {}
        for shard in range(-(-(len(row_N1) - 1) // shard_examples)):
            self._open(shard)

    def examples(self, begin: int, end: int) -> Beliefs:
        """The rows of examples [begin, end); at least one."""
        low, high = int(self._row_N1[begin]), int(self._row_N1[end])
        touched = range(begin // self._shard_examples, -(-end // self._shard_examples))
        self._shards = {shard: self._shards.get(shard) or self._open(shard) for shard in touched}
        parts = [shard.rows(low, high) for shard in self._shards.values()]
        whole = {
            name: parts[0][name] if len(parts) == 1 else np.concatenate([p[name] for p in parts])
            for name in (LOW, HIGH, *PLAIN)
        }
        ids_UK = unpack_ids(whole.pop(LOW), whole.pop(HIGH), self._bits)
        return Beliefs(ids_UK=ids_UK, **whole)

    def _open(self, shard: int) -> _Shard:
        first = shard * self._shard_examples
        end = min(first + self._shard_examples, len(self._row_N1) - 1)
        low, high = int(self._row_N1[first]), int(self._row_N1[end])
        return _open(shard_path(self._folder, shard), low, high - low, self._bits)


@dataclass(frozen=True)
class _Shard:
    """The arrays of one shard; its first row is row `first` of the data."""

    first: int
    arrays: dict[str, NDArray]

    def rows(self, low: int, high: int) -> dict[str, NDArray]:
        """Its part of the rows [low, high) of the data."""
        begin, end = max(low - self.first, 0), max(high - self.first, 0)
        return {name: array[begin:end] for name, array in self.arrays.items()}


def _open(path: Path, first: int, rows: int, bits: int) -> _Shard:
    try:
        arrays = arrays_of(path)
        held = len(arrays["gold_U"])
    except (CheckpointError, FileNotFoundError, KeyError) as error:
        raise ArtifactError(
            f"{path} cannot be read ({error}): it is missing or cut short. Delete the folder "
            f"{path.parent} and run again."
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error
    wide = -(-arrays[LOW].shape[1] * bits // 8)
    if held != rows or {len(a) for a in arrays.values()} != {rows} or arrays[HIGH].shape[1] != wide:
        raise ArtifactError(
            f"{path} holds {held} positions, expected {rows}: it belongs to other data. Delete "
            f"the folder {path.parent} and run again."
        )
    return _Shard(first, arrays)
