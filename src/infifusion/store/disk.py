"""What a full, write-protected, vanished or failing disk looks like, in the words of the
libraries."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from infifusion.errors import RunError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What the system says when nothing more can be written."""

TORCH = re.compile(r"PytorchStreamWriter|inline_container")
"""torch's writer of zip files names no number; it fails where the disk is full."""


def errno_of(error: BaseException) -> int | None:
    """The system's error number; safetensors' errors have it in their words alone."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    if found:
        return int(found.group(1))
    return errno.ENOSPC if isinstance(error, RuntimeError) and TORCH.search(str(error)) else None


def unreadable(path: Path, error: OSError) -> RunError:
    """The error for a file that cannot be read for a reason that says nothing of its content: too
    many open files, a disk or network that fails just now, permissions. What may be whole is
    neither made anew nor said to be damaged."""
    return RunError(
        f"{error.filename or path} cannot be read: {error.strerror or error}. It may be whole, and "
        "nothing was changed. See to its disk, its permissions or the limit of open files "
        "(ulimit -n), then run the same command again: it goes on where it was."
    )
