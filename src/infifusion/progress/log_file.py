"""RUN_DIR/log.txt: everything that is said during a run, with time, process and traceback."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infifusion.process.runtime import ConsoleHandler, RedactedFormatter, log, rank, world_size
from infifusion.progress.state import LOG

ONLY_HERE = {"only_in_log_file": True}
"""`extra` of a message that the terminal has no use for."""


class LogFile(logging.FileHandler):
    """Appends; a full disk stops the run with its own message, not with this one's."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing: the terminal has the message."""


def log_path(folder: Path) -> Path:
    """log.txt, and for the further processes of torchrun log-rankN.txt: appending from several
    machines to one file of a shared folder would lose lines."""
    return folder / (LOG if rank() == 0 else f"log-rank{rank()}.txt")


@contextmanager
def log_file(folder: Path) -> Iterator[Path]:
    """Write our messages, and other libraries' warnings, to the folder's log while the block runs.

    The terminal shows warnings as before.
    """
    path = log_path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = LogFile(path, encoding="utf-8", delay=True)
    place = f" [rank {rank()} of {world_size()}]" if world_size() > 1 else ""
    handler.setFormatter(RedactedFormatter(f"%(asctime)s{place} %(levelname)s %(message)s"))
    terminal = ConsoleHandler(logging.WARNING)
    root = logging.getLogger()
    log.addHandler(handler)
    root.addHandler(handler)
    root.addHandler(terminal)
    logging.captureWarnings(True)
    try:
        yield path
    finally:
        logging.captureWarnings(False)
        log.removeHandler(handler)
        root.removeHandler(handler)
        root.removeHandler(terminal)
        handler.close()
