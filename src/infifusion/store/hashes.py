"""Digests of files, each file read once per process, and comparisons with a manifest.

SHA-256 stands in the manifests of finished stages; it runs at about 1 GB/s on one core, 2 where the
processor helps. XXH3-128 stands in the receipts of work under way (checkpoints, shards); it runs at
10 GB/s and detects accidents as surely.

A process remembers every digest by device, inode, size and modification time of the file, and reads
the file again only when one of these has changed.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import xxhash

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_BYTES = 1 << 20
SAMPLES, SAMPLE_BYTES = 256, 4096
TICK = 0.02  # seconds; Linux' file systems note modification times in steps of 1 to 10 ms
HASHERS: dict[str, Callable[[], Any]] = {"sha256": hashlib.sha256, "xxh3": xxhash.xxh3_128}

_known: dict[tuple[int, ...], dict[str, str]] = {}


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    return _digests(path, "sha256")["sha256"]


def quick_hash(path: Path, *, sealed: bool = False) -> str:
    """Hex XXH3-128 of a file. sealed: a manifest will hold its SHA-256, which is computed in the
    same reading."""
    return _digests(path, "xxh3", *(["sha256"] if sealed else []))["xxh3"]


def sampled_sha256(path: Path) -> str:
    """Hex SHA-256 of the size and of 256 evenly spaced blocks of 4 KiB, for weights of models: tens
    of gigabytes are not read whole at every start, and any training step changes every block."""
    return _digests(path, "sampled")["sampled"]


def sha256_of_text(*parts: str) -> str:
    """Hex SHA-256 of some strings, kept apart by NUL bytes."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def quick_hash_of(values: NDArray) -> str:
    """Hex XXH3-128 of an array's elements, in order."""
    import numpy as np  # here, because the report reads manifests without it

    return xxhash.xxh3_128(np.ascontiguousarray(values).view(np.uint8).data).hexdigest()


def damage(folder: Path, manifest: Mapping[str, Any], name: str) -> str:
    """What is wrong with a file of a finished stage, in a sentence; empty when nothing is."""
    if problem := wrong_size(folder, manifest, name):
        return problem
    path = folder / name
    try:
        found = sha256_of(path)
    except FileNotFoundError:  # another process deletes what is damaged, with --redo
        return f"{path} is missing."
    if found == manifest["files"][name]:
        return ""
    return f"{path} is not the file that was written: its SHA-256 differs from the manifest."


def wrong_size(folder: Path, manifest: Mapping[str, Any], name: str) -> str:
    """As `damage`, without reading the file: only whether it is there and as long as it was."""
    path = folder / name
    if not path.is_file():
        return f"{path} is missing."
    found, expected = path.stat().st_size, manifest["bytes"][name]
    if found == expected:
        return ""
    return f"{path} is not the file that was written: it has {found:,} bytes, not {expected:,}."


def _digests(path: Path, *kinds: str) -> dict[str, str]:
    """The digests of a file as it is now, from memory where it has not changed since."""
    with path.open("rb") as file:
        state = _state(file)
        known = _known.get(state, {})
        if missing := [kind for kind in kinds if kind not in known]:
            # A change within one step of the clock would leave the modification time as it is.
            time.sleep(min(TICK, max(0.0, TICK - (time.time_ns() - state[-1]) / 1e9)))
            known = known | _read(file, missing)
            if _state(file) == state:  # else it was written to meanwhile
                _known[state] = known
    return known


def _state(file: IO[bytes]) -> tuple[int, ...]:
    at = os.fstat(file.fileno())
    return at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns


def _read(file: IO[bytes], kinds: list[str]) -> dict[str, str]:
    """Compute digests of an open file in one reading."""
    if kinds == ["sampled"]:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(str(size).encode())
        for sample in range(SAMPLES):
            file.seek(max(0, (size - SAMPLE_BYTES) * sample // (SAMPLES - 1)))
            digest.update(file.read(SAMPLE_BYTES))
        return {"sampled": digest.hexdigest()}
    hashers = {kind: HASHERS[kind]() for kind in kinds}
    while block := file.read(BLOCK_BYTES):
        for hasher in hashers.values():
            hasher.update(block)
    return {kind: hasher.hexdigest() for kind, hasher in hashers.items()}
