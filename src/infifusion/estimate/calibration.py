"""The calibration of this machine: one JSON file in the user's cache folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from infifusion.errors import ArtifactError
from infifusion.estimate.costs.work import UNITS
from infifusion.store.artifacts import cache_folder, user_cache
from infifusion.store.records import read_json, write_json

FORMAT = 1
"""Raised when the units change: a file of another format is not used."""


FILE = "calibration.json"


def calibration_path() -> Path:
    """calibration.json in the package's cache folder ($INFIFUSION_CACHE moves it), or where it lay
    before that variable moved it, if there alone."""
    path = cache_folder() / FILE
    before = user_cache() / FILE
    return before if before.is_file() and not path.is_file() else path


def read_calibration() -> dict[str, Any] | None:
    """What `--calibrate` saved; None where there is nothing of this format.

    Raises ArtifactError when the file is damaged.
    """
    path = calibration_path()
    if not path.is_file():
        return None
    values = read_json(path)
    if values.get("format") != FORMAT:
        return None
    if not {"units", "matmul", "base_memory", "measured_at"} <= values.keys() or not (
        values["units"].keys() <= UNITS.keys()
    ):
        raise ArtifactError(f"{path} is damaged. Delete it, and run plan --calibrate again.")
    return values


def write_calibration(values: dict[str, Any]) -> Path:
    """Save the figures; returns the file."""
    path = cache_folder() / FILE
    write_json(path, {"format": FORMAT, "measured_at": time.time(), **values})
    return path


def age_in_words(values: dict[str, Any] | None) -> str:
    """How long ago it was measured."""
    if values is None:
        return "never"
    seconds = max(0.0, time.time() - float(values["measured_at"]))
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return "just now"
