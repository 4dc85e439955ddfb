"""Models that a merge has to make before it can read them; they last as long as this process."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path


def temporary_model(what: str) -> Path:
    """A new, empty folder that is deleted when this process ends."""
    place = Path(tempfile.mkdtemp(prefix=f"infifusion-{what}-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place
