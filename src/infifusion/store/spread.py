"""Work shared by the processes of torchrun or accelerate, through the run folder alone.

Of n processes each takes every n-th part and writes its files. The first process waits until all
files are there and finishes the stage; the others wait for its manifest. Nothing is sent between
processes, so nothing times out, and several machines need only a shared folder. Who makes which
part depends on the number of processes alone: after a restart each goes on with what it lacks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from infifusion.errors import RunError
from infifusion.process.runtime import log, rank, world_size
from infifusion.store.artifacts import LOOK_EVERY
from infifusion.store.lock import lost

Item = TypeVar("Item")
SAY_EVERY = 60.0


def my_part(items: Sequence[Item]) -> list[Item]:
    """The items that this process makes: numbers rank, rank + n, rank + 2 n, ..."""
    return list(items[rank() :: world_size()])


def wait_for(
    paths: Iterable[Path], what: str, *, there: Callable[[Path], bool] = Path.exists
) -> None:
    """Return when all files are `there`; every minute the log says what is waited for.

    A file is looked at when the one before is there: a folder may lack thousands, and looking at
    all of them five times a second is too much for a network's disk. Raises RunError, within a
    second, where another process of the run has died or the run's folder has vanished.
    """
    said = time.monotonic()
    left = list(paths)[::-1]

    def look() -> None:
        while left and there(left[-1]):
            left.pop()

    look()
    while left:
        time.sleep(LOOK_EVERY)
        why = lost()  # before the files are looked at: a process that has ended may be done
        look()
        if left and why:
            raise RunError(why)
        if left and time.monotonic() - said > SAY_EVERY:
            said = time.monotonic()
            log.info("%s: waiting for %s and up to %d more", what, left[-1], len(left) - 1)
