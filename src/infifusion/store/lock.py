"""File locks: one run at a time in a folder, and one process at a time that makes a shared result.

Each process of a run holds a lock file of its own, `.lock` for the first and `.lock-N` for the
others, so any of them can see whether another has died. The kernel releases a lock when its owner
ends, however it ends: no lock is ever stale, and no clocks are compared.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from infifusion.errors import ArtifactError, BusyError, InfiFusionError, RunError
from infifusion.process.runtime import log, rank, world_size
from infifusion.store.durable import remove_leftovers
from infifusion.store.hashes import sha256_of_text

LOCK = ".lock"
TRIES, PAUSE = 10, 0.2  # seconds; another process may look at a lock just now
_held: Path | None = None
"""The folder that this process works in."""


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold this process's lock in the folder while the block runs.

    Temporary files of killed processes are removed first. Raises ArtifactError, which names the
    owner and its age, where another run holds the lock, and RunError where the block failed because
    another process of this run has died. On a file system without locks it warns and goes on.
    """
    global _held
    folder.mkdir(parents=True, exist_ok=True)
    _remove_free_locks(folder)
    path = _lock_of(folder, rank())
    file = _locked(path)
    owner: dict[str, Any] = {"pid": os.getpid(), "machine": socket.gethostname()}
    with file:
        _write(file, {**owner, "since": time.time()})
        _held = folder
        try:
            if rank() == 0:
                remove_leftovers(folder)
            yield
        except BaseException as error:
            if world_size() == 1:
                path.unlink(missing_ok=True)
                raise
            # The file stays, and tells the others why this process has ended.
            stopped = not isinstance(error, Exception)
            died = None if isinstance(error, InfiFusionError) else dead_peer(but_stopped=stopped)
            reason = died or f"{type(error).__name__}: {error}"
            _write(file, {**owner, "reason": reason, "stopped": stopped and died is None})
            if died is not None and not stopped:
                raise RunError(died) from error
            if died is not None:
                log.error("%s", died)
            raise
        else:
            path.unlink(missing_ok=True)
        finally:
            _held = None


_claims: list[IO[str]] = []


def claim(place: Path) -> None:
    """Keep other processes from writing at `place`, until `release_claims` or the end of this
    process. BusyError where one of them has claimed it. A second lock in the system's temporary
    folder keeps off the processes of this machine where the file system of `place` has no locks."""
    place.parent.mkdir(parents=True, exist_ok=True)
    name = f"infifusion-{os.getuid()}-{sha256_of_text(str(place))[:16]}{LOCK}"
    for path in (place.with_name(f"{LOCK}-{place.name}"), Path(tempfile.gettempdir()) / name):
        with contextlib.ExitStack() as opened:
            try:
                file = opened.enter_context(path.open("a+", encoding="utf-8"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(
                    f"{place} is being made by another process. Wait until it is done."
                ) from None
            except OSError as error:
                log.warning("%s cannot be locked: %s", path, error)
                continue
            opened.pop_all()
            _claims.append(file)
            return


def release_claims() -> None:
    """Give up every claim of this process."""
    while _claims:
        with _claims.pop() as file, contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)  # also where a fork of this process has it open


def dead_peer(*, but_stopped: bool = False) -> str | None:
    """The message for another process of this run having died, so that its parts will never come;
    None where all live, have not begun, or are done. but_stopped: leave out processes that a signal
    has stopped, which torchrun sends to all."""
    if _held is None or world_size() == 1:
        return None
    for number in range(world_size()):
        path = _lock_of(_held, number)
        if number == rank() or not path.exists():
            continue
        with contextlib.suppress(OSError), path.open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            with contextlib.suppress(ValueError):  # it has just begun
                owner = json.load(file)
                if but_stopped and owner.get("stopped"):
                    continue
                why = owner.get("reason", "it was killed, or its machine is gone")
                return (
                    f"Process {number} of {world_size()} (pid {owner['pid']} on "
                    f"{owner['machine']}) has ended: {why}. This process stops, too. What was "
                    "finished is kept. Run the same command again: it goes on where it was."
                )
    return None


def lost() -> str | None:
    """The message for why files of this run will never come: its folder vanished, or another
    process of it has died. None where neither is so."""
    if _held is not None and not _lock_of(_held, rank()).exists():
        return vanished(_held)
    return dead_peer()


def vanished(folder: Path) -> str:
    """The message for the folder of a run not being there any more."""
    return (
        f"The run folder {folder} vanished while the run was under way: deleted, moved, or its "
        "disk is not mounted any more. Bring it back and run the same command again: it goes on "
        "where it was."
    )


def _lock_of(folder: Path, number: int) -> Path:
    return folder / (f"{LOCK}-{number}" if number else LOCK)


def _remove_free_locks(folder: Path) -> None:
    """Remove the lock files whose owners are dead."""
    for path in folder.glob(f"{LOCK}*"):
        with contextlib.suppress(OSError), path.open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _write(file: IO[str], owner: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the disk is full, or gone
        os.ftruncate(file.fileno(), 0)
        os.pwrite(file.fileno(), json.dumps(owner).encode(), 0)


def _locked(path: Path) -> IO[str]:
    """The open lock file. Tried again where its last owner has removed the file in between."""
    tries = 0
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read()
            file.close()
            tries += 1
            if tries < TRIES:
                time.sleep(PAUSE)
                continue
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
