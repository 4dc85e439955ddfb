"""A few faults of every kind; `make faults` injects hundreds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).with_name("harness.py")
KINDS = {  # kind -> at least so many are injected, where the machine allows it
    "power loss at every point": 60,
    "kill": 4,
    "SIGTERM": 1,
    "Ctrl-C": 1,
    "file too large": 1,
    "folder vanished": 1,
    "one of two killed": 1,
}


@pytest.mark.slow
def test_what_is_disturbed_goes_on_to_the_bytes_of_an_undisturbed_run(tmp_path: Path) -> None:
    out = tmp_path / "counts.json"
    command = [sys.executable, str(HARNESS), "--faults", "8", "--minutes", "2", "--json", str(out)]
    command += ["--until", "prepare"]  # the points; other kinds go through all stages
    for kind in KINDS:
        command += ["--only", kind]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    counts = {count["kind"]: count for count in json.loads(out.read_text())}
    for kind, least in KINDS.items():
        assert counts[kind]["injected"] >= least, done.stdout
        assert counts[kind]["survived"] == counts[kind]["injected"] and not counts[kind]["lost"]
