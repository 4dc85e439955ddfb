"""The cache of beliefs on disk: fixed-width shards of whole examples.

A shard is one safetensors file with the arrays of types.Beliefs for examples
[shard * size, (shard + 1) * size). Of a token id the lower 16 bits lie in it, and the bits beyond
those, packed. Shards appear whole or not at all, so a pass that was stopped goes on with the first
missing one.

Bytes per position: 2 K for log-probabilities (fp16), 2 K and K bits per bit of the vocabulary
beyond 16 for ids, 20 for the five scalars: 60 at K = 10 up to 65,536 entries, 63 up to 262,144.

Axes: U positions, K entries, X bytes of a row's high bits.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from infifusion.errors import ArtifactError, CheckpointError
from infifusion.merge.checkpoints.reader import arrays_of
from infifusion.rows import compiled
from infifusion.store.disk import unreadable
from infifusion.store.durable import atomic_write
from infifusion.types import Beliefs

LOW_BITS = 16
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


def high_bits(vocabulary: int) -> int:
    """Bits of an id beyond the lower 16."""
    return max(0, (vocabulary - 1).bit_length() - LOW_BITS)


def pack_ids(
    ids_UK: NDArray[np.int32], vocabulary: int
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """The lower 16 bits of each id, [U, K], and the others, row by row end to end, [U, X].

    Raises ValueError for an id outside the vocabulary.
    """
    if ids_UK.size and not 0 <= int(ids_UK.min()) <= int(ids_UK.max()) < vocabulary:
        raise ValueError(
            f"ids from {ids_UK.min()} to {ids_UK.max()} do not fit a vocabulary of {vocabulary}"
        )
    bits, (rows, entries) = high_bits(vocabulary), ids_UK.shape
    high_UX = np.zeros((rows, -(-entries * bits // 8)), np.uint8)
    _pack(ids_UK, bits, high_UX)
    return (ids_UK & 0xFFFF).astype(np.uint16), high_UX


def unpack_ids(
    low_UK: NDArray[np.uint16], high_UX: NDArray[np.uint8], bits: int
) -> NDArray[np.int32]:
    """What `pack_ids` packed: [U, K]; bits as `high_bits` gives them."""
    ids_UK = np.empty(low_UK.shape, np.int32)
    _unpack(low_UK, high_UX, bits, ids_UK)
    return ids_UK


@compiled
def _pack(ids_UK, bits, high_UX):
    for u in range(ids_UK.shape[0]):
        place = 0
        for k in range(ids_UK.shape[1]):
            for bit in range(bits):
                one = (ids_UK[u, k] >> (LOW_BITS + bit)) & 1
                high_UX[u, place >> 3] |= np.uint8(one << (place & 7))
                place += 1


@compiled
def _unpack(low_UK, high_UX, bits, ids_UK):
    for u in range(ids_UK.shape[0]):
        waiting, held, place = 0, 0, 0  # bits of the bytes before `place` that are not yet used
        for k in range(ids_UK.shape[1]):
            while held < bits:
                waiting |= np.int64(high_UX[u, place]) << held
                held += 8
                place += 1
            ids_UK[u, k] = low_UK[u, k] | ((waiting & ((1 << bits) - 1)) << LOW_BITS)
            waiting >>= bits
            held -= bits
