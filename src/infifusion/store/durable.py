"""Atomic writes: a file or folder is there whole or not at all, whatever kills the process.

It is written under a hidden name beside its place, synced to the disk, and renamed. The writer
holds a lock on it, which the kernel releases when the writer dies: a hidden file without a lock is
a leftover, however old.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from infifusion.errors import ArtifactError

TEMPORARY = ".tmp"  # ends the name of what is not whole yet


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it only if the block succeeds.

    Both the file and its new name are synced. `remove_leftovers` deletes what a killed process
    leaves: it is not locked any more.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, descriptor = _held_file(path)
    try:
        yield temporary
        temporary.chmod(0o644)
        _sync_one(temporary)
        temporary.replace(path)
        _sync_one(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(descriptor)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, synced and renamed onto it only if the block succeeds.

    Raises ArtifactError when `path` exists and is not empty: nothing is overwritten.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ArtifactError(f"{path} exists already. Give another folder, or delete this one.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(path) as place:
        temporary = place / "new"
        temporary.mkdir()
        yield temporary
        sync(*files_in(temporary))
        if path.exists():
            path.rmdir()
        temporary.replace(path)
        _sync_one(path.parent)


def files_in(folder: Path) -> list[Path]:
    """Every file in a folder and the folders in it, sorted: a tokenizer with several chat templates
    saves a folder of them."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def sync(*paths: Path) -> None:
    """Return when the files, and their names in their folders, are on the disk."""
    for path in [*paths, *sorted({path.parent for path in paths})]:
        _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Mounted drives (SMB, some FUSE) do not sync folders; files they do.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files and folders that killed processes left anywhere in `folder`."""
    for path in sorted(folder.rglob(f".*{TEMPORARY}")):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(descriptor)


def _held_file(path: Path) -> tuple[Path, int]:
    """A new temporary file for `path`, and the descriptor that holds its lock."""
    while True:
        descriptor, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY
        )
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.path.exists(name):  # else removed as a leftover before it was locked
            return Path(name), descriptor
        os.close(descriptor)


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A new hidden folder beside `path`, locked while it is used and deleted at the end."""
    with tempfile.TemporaryDirectory(
        dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY, ignore_cleanup_errors=True
    ) as name:
        descriptor = os.open(name, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield Path(name)
        finally:
            os.close(descriptor)
