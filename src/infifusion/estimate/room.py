"""The disk of a run: what is still to be written, and what to say where it cannot be."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator

from infifusion.errors import RunError
from infifusion.estimate.plan import plan_of_run
from infifusion.recipe import Recipe
from infifusion.store.disk import FULL, errno_of
from infifusion.store.folders import RunFolder
from infifusion.store.lock import LOCK, vanished
from infifusion.store.records import Json


def bytes_to_come(rows: Iterable[Json], done: Collection[str]) -> int:
    """What is still to be written, by the rows of a plan; done: names of the steps that are."""
    left = [row for row in rows if f"{row['stage']}/{row['name']}".strip("/") not in done]
    # A training run's own checkpoints go when it is done: only the largest counts.
    scratch = max((row["scratch"] for row in left), default=0)
    return int(sum(row["bytes"] for row in left) + scratch)


@contextlib.contextmanager
def disk_errors(
    recipe: Recipe, folder: RunFolder, done: Callable[[], Collection[str]]
) -> Iterator[None]:
    """Turn what a full, write-protected or vanished disk raises into a RunError that says so.
    done() names the steps that are finished."""
    try:
        yield
    except Exception as error:
        number = errno_of(error)
        if not (folder.root / LOCK).exists():
            raise RunError(vanished(folder.root)) from error
        if number not in FULL:
            raise
        raise RunError(_in_words(error, number, recipe, folder, done())) from error


def _in_words(
    error: Exception, number: int, recipe: Recipe, folder: RunFolder, done: Collection[str]
) -> str:
    name = error.filename if isinstance(error, OSError) else None
    needed = "the recipe cannot be planned, so it is not known how many"
    with contextlib.suppress(OSError):
        if planned := plan_of_run(recipe, folder.root):
            needed = f"about {bytes_to_come(planned['rows'], done):,}"
    free = shutil.disk_usage(folder.root).free
    return (
        f"{os.strerror(number)}: {name or 'a file could not be written'}. Still to be written: "
        f"{needed} bytes; {free:,} bytes are free on the disk of {folder.root}. Make space, or "
        "give another --run-dir; then run the same command again: it goes on where it was."
    )
