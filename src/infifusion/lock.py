"""One process at a time in a folder; the lock dies with its owner."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from infifusion.errors import ArtifactError
from infifusion.runtime import log, rank

LOCK = ".lock"


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold folder/.lock while the block runs. Under torchrun the first process holds it for all.

    The kernel lets go of it when its owner ends, however it ends, so none is ever stale. Raises
    ArtifactError naming the owner and its age where another process holds it. On a file system
    without locks it says so and goes on.
    """
    if rank() != 0:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    file = _locked(path)
    with file:
        file.seek(0)
        file.truncate()
        owner = {"pid": os.getpid(), "machine": socket.gethostname(), "since": time.time()}
        file.write(json.dumps(owner))
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(path: Path) -> IO[str]:
    """The open lock file. One that its last owner removed in between is not the lock any more."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read()
            file.close()
            raise ArtifactError(
                f"{path.parent} is in use by {_in_words(owner)}. Wait until it is done, stop it, "
                "or give another --run-dir."
            ) from None
        except OSError as error:
            log.warning("%s cannot be locked (%s): see to it that one run uses it", path, error)
            return file
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file
        file.close()


def _in_words(owner: str) -> str:
    try:
        found = json.loads(owner)
        age = max(0, round(time.time() - found["since"]))
        return f"process {found['pid']} on {found['machine']}, since {age} s ago"
    except (ValueError, KeyError, TypeError):
        return "another process that has just begun"
