"""Error messages on standard error and exit statuses of the command line."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infifusion.errors import InfiFusionError
from infifusion.process.redact import redact_text
from infifusion.store.disk import FULL, errno_of

UNUSABLE = (
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
)
"""Error numbers of a path that cannot be used: a file in place of a folder, no rights, ..."""

NO_MEMORY = ("MemoryError", "OutOfMemoryError", "_ArrayMemoryError")
"""By name, so that torch and NumPy need not be imported: Python's own, torch's, NumPy's."""

STATUSES = {
    0: "fine",
    1: "the run failed: disk full, memory, a worker was killed, no sandbox, an unforeseen error",
    2: "the input is wrong: an option, a recipe, data, a model, a tokenizer, a run folder",
    130: "stopped by Ctrl-C; the same command goes on where it was",
    143: "stopped by SIGTERM; the same command goes on where it was",
}
"""Every exit status and what it means."""


class Stopped(BaseException):
    """Ctrl-C or SIGTERM. Not a KeyboardInterrupt, which typer would answer itself."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_status = 128 + number


def stop_on_signals() -> None:
    """Let Ctrl-C and SIGTERM raise Stopped."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def _stop(number: int, frame: object) -> None:
    # An object that a library was just making when the signal came may complain in its __del__.
    sys.unraisablehook = lambda _: None
    raise Stopped(number)


@contextmanager
def exit_statuses() -> Iterator[None]:
    """2 when the input is at fault, 130 on Ctrl-C, 143 on SIGTERM, 1 for anything else."""
    try:
        yield
    except InfiFusionError as error:
        _say(f"Error: {error}")
        sys.exit(error.exit_status)
    except Stopped as stopped:
        from infifusion.process.runtime import rank  # not before it is needed: the help is quick

        if rank() == 0:  # torchrun stops all its processes: once is enough
            _say(
                "Stopped. What was finished is kept. Run the same command again: it goes on where "
                "it was."
            )
        sys.exit(stopped.exit_status)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in UNUSABLE:
            _say(f"Error: {error.strerror}: {error.filename}. Give another path.")
            sys.exit(2)
        if errno_of(error) in FULL:
            _say(f"Error: {_of_disk(error)}")
        elif type(error).__name__ in NO_MEMORY:
            _say(f"Error: {_of_memory(error)}")
        else:
            raise
        sys.exit(1)


def _say(text: str) -> None:
    print(redact_text(text), file=sys.stderr)


def _of_disk(error: Exception) -> str:
    name = error.filename if isinstance(error, OSError) else None
    place = Path(name or ".").absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    return (
        f"{os.strerror(errno_of(error) or 0)}: {name or 'a file could not be written'}; {free:,} "
        f"bytes are free on the disk of {place}. Make space (infifusion plan says how much a "
        "recipe needs), or give another --run-dir; then run the same command again: it goes on "
        "where it was."
    )


def _of_memory(error: Exception) -> str:
    said = str(error).strip().partition("\n")[0] or "no more can be had"
    return (
        f"The memory ran out: {said} Lower training.per_device_train_batch_size (and raise "
        "gradient_accumulation_steps), loss_rows, teach.batch_tokens or evaluate.batch_size, set "
        "training.gradient_checkpointing: true or lora; infifusion plan says what each stage "
        "needs. Then run the same command again: it goes on where it was."
    )
