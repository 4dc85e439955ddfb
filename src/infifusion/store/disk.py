"""Errors of a full, write-protected or failing disk, as the system and the libraries raise them."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from infifusion.errors import RunError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What the system says when nothing more can be written."""

TORCH = re.compile(r"PytorchStreamWriter|inline_container")
"""In errors of torch's writer of zip files, which have no error number; the disk is full."""


def errno_of(error: BaseException) -> int | None:
    """The system's error number; safetensors' errors have it in their words alone."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    if found:
        return int(found.group(1))
    return errno.ENOSPC if isinstance(error, RuntimeError) and TORCH.search(str(error)) else None


def unreadable(path: Path, error: OSError) -> RunError:
    """The error for a file that cannot be read for a reason other than its content: too many open
    files, a disk or network that fails at the moment, permissions. Such a file may be whole, so it
    is neither made anew nor called damaged."""
    return RunError(
        f"{error.filename or path} cannot be read: {error.strerror or error}. It may be whole, and "
        "nothing was changed. See to its disk, its permissions or the limit of open files "
        "(ulimit -n), then run the same command again: it goes on where it was."
    )
