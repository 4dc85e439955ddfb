"""What a full, write-protected or vanished disk looks like, in the words of the libraries."""

from __future__ import annotations

import errno
import re

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
